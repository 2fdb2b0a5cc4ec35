"""Predictions of the model in this directory: python predict.py [request.json] prints the response to a request, or to the example in signature.json.

Needs numpy and onnxruntime. Requests are those of the Open Inference Protocol (v2); null stands for a missing number.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

PROVIDER = "CPUExecutionProvider"  # or CUDAExecutionProvider
DTYPES = {"FP32": np.float32, "INT64": np.int64, "UINT8": np.uint8, "BOOL": np.bool_, "BYTES": object}

here = Path(__file__).parent
manifest = json.loads((here / "manifest.json").read_text("utf-8"))
model = (here / manifest["model"]).read_bytes()
if hashlib.sha256(model).hexdigest() != manifest["files"][manifest["model"]]["sha256"]:
    sys.exit(f"{manifest['model']} is not the file that was exported")
session = ort.InferenceSession(model, providers=[PROVIDER])
if session.get_providers()[0] != PROVIDER:  # onnxruntime takes another one without an error
    sys.exit(f"onnxruntime runs the model with {session.get_providers()[0]}, not with {PROVIDER}")

example = json.loads((here / "signature.json").read_text("utf-8"))["example"]["request"]
request = json.loads(Path(sys.argv[1]).read_text("utf-8")) if len(sys.argv) > 1 else example
feeds = {given["name"]: np.array(given["data"], DTYPES[given["datatype"]]).reshape(given["shape"]) for given in request["inputs"]}
for output, found in zip(session.get_outputs(), session.run(None, feeds), strict=True):
    print(output.name, json.dumps(found.tolist()))
