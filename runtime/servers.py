"""What two inference servers want beside the ONNX file: a model repository for NVIDIA Triton, and a KServe InferenceService that serves it.

Both speak the Open Inference Protocol, in which signature.json gives an example.
"""

from __future__ import annotations

import json
import re

from nnc.compiler.interface import Interface, Port

MOST_BATCH = 64  # requests that the server joins, at most
QUEUE_MICROSECONDS = 500  # how long it waits for others
TRITON_TYPES = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
    "string": "TYPE_STRING",
}
LONGEST_NAME = 63


def service_name(name: str) -> str:
    """A name that Kubernetes takes: a DNS label that begins with a letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (plain if plain[:1].isalpha() else f"model-{plain}").strip("-")[:LONGEST_NAME].rstrip("-")


def triton_config(name: str, ports: Interface) -> str:
    """config.pbtxt: the axes of a sample are declared, the batch is the server's to make."""
    parts = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {MOST_BATCH}",
        *(_tensor("input", key, port) for key, port in ports.inputs.items()),
        *(_tensor("output", key, port) for key, port in ports.outputs.items()),
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}",
    ]
    return "\n".join(parts) + "\n"


def _tensor(kind: str, name: str, port: Port) -> str:
    sample = list(port.type.shape[1:])
    lines = [f'name: "{name}"', f"data_type: {TRITON_TYPES[port.type.dtype]}", f"dims: {sample or [1]}"]
    if not sample:
        lines.append("reshape { shape: [ ] }")  # a scalar a sample: the file has the batch's axis alone
    return f"{kind} {{ " + " ".join(lines) + " }"


def kserve(name: str, sha256: str) -> str:
    """An InferenceService of the repository triton/, which has to be copied to where the cluster reads models."""
    return f"""\
# Copy the directory triton of this bundle to a place that the cluster reads, and name that place in storageUri.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
  annotations:
    model-sha256: {json.dumps(sha256)}
spec:
  predictor:
    model:
      modelFormat:
        name: onnx
      protocolVersion: v2
      runtime: kserve-tritonserver
      storageUri: pvc://models/{name}/triton
"""
