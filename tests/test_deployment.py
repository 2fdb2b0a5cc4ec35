"""What a deployer finds beside the ONNX file: a signature with an example, a Triton repository, a KServe service, a program to start from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from runs import nnc, write

from nnc.runtime.bundle import open_bundle
from nnc.runtime.servers import service_name

PEOPLE = """
network people(numbers: float32[2], job: float32[3], band: int64) {
  b = band -> embedding(4, 2)
  h = concat(numbers, job, b) -> dense(6) -> tanh
  return pay = h -> dense(1), rich = h -> dense(2) -> softmax
}
data {
  source  = table(
    age = [31, 50, 18, 77, 40, 41, 25, 36], hours = [40, 38, 20, 12, 45, 40, 37, 30], band = [3, 3, 5, 9, 5, 9, 3, 5],
    job = ["cook", "poet", "cook", "smith", "poet", "smith", "cook", "poet"],
    wage = [30000, 51000, 18000, 20000, 61000, 40000, 31000, 38000], rich = ["no", "yes", "no", "no", "yes", "no", "no", "no"])
  numbers = columns(age, hours) -> impute(median) -> standardize
  job     = column(job) -> one_hot
  band    = column(band) -> category([3, 5, 9])
  wage    = column(wage) -> standardize
  class   = column(rich) -> category
  split   = ordered(train=75%, validation=25%)
}
train {
  loss = mse(pay, wage) + cross_entropy(rich, class)
  optimizer = adam(lr=0.05)  batch = 4  epochs = 3
}
export { file = "people.onnx"  outputs = [pay, rich, class] }
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment")
    said = nnc("run", write(folder / "people.nn", PEOPLE), "-o", folder / "run")
    assert said.status == 0, said.err
    return folder / "run" / "export"


def test_what_lies_in_a_bundle(dist: Path) -> None:
    assert sorted(p.relative_to(dist).as_posix() for p in dist.rglob("*") if p.is_file()) == [
        "kserve.yaml", "manifest.json", "people.onnx", "predict.py", "signature.json", "spec.nn", "triton/people/1/model.onnx",
        "triton/people/config.pbtxt", "verification.json",
    ]  # fmt: skip
    assert (dist / "triton/people/1/model.onnx").read_bytes() == open_bundle(dist).model


def test_the_signature_says_what_goes_in_and_comes_out(dist: Path) -> None:
    told = open_bundle(dist).signature
    assert told["inputs"] == [
        {"name": "numbers", "dtype": "float32", "shape": ["batch", 2], "meaning": "columns age, hours", "columns": ["age", "hours"],
         "missing": "NaN, replaced by the median of the training rows"},
        {"name": "job", "dtype": "string", "shape": ["batch"], "meaning": "column job", "columns": ["job"], "categories": ["cook", "poet", "smith"],
         "missing": '"", as any value that is no category'},
        {"name": "band", "dtype": "float32", "shape": ["batch", 1], "meaning": "column band", "columns": ["band"], "categories": [3, 5, 9],
         "missing": "NaN, as any value that is no category"},
    ]  # fmt: skip
    outputs = {output["name"]: output for output in told["outputs"]}
    assert outputs["pay"]["unit"] == "that of column wage"
    assert outputs["rich"]["categories"] == outputs["class"]["categories"] == ["no", "yes"]
    assert outputs["class"] | {"meaning": ""} == {
        "name": "class", "dtype": "string", "shape": ["batch"], "meaning": "", "columns": ["rich"], "categories": ["no", "yes"],
    }  # fmt: skip
    proto = onnx.load(dist / "people.onnx")
    for port, value in zip([*told["inputs"], *told["outputs"]], [*proto.graph.input, *proto.graph.output], strict=True):
        assert port["name"] == value.name
        assert onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) == np.dtype(object if port["dtype"] == "string" else port["dtype"])
        assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == port["shape"]


def asked(dist: Path, request: dict[str, Any]) -> dict[str, Any]:
    kinds = {"FP32": np.float32, "INT64": np.int64, "BYTES": object}
    session = onnxruntime.InferenceSession(str(dist / "people.onnx"), providers=["CPUExecutionProvider"])
    feeds = {i["name"]: np.array(i["data"], kinds[i["datatype"]]).reshape(i["shape"]) for i in request["inputs"]}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def test_the_example_is_one(dist: Path) -> None:
    """It is made of real rows, and the file answers as it says."""
    example = open_bundle(dist).signature["example"]
    (numbers,) = (i for i in example["request"]["inputs"] if i["name"] == "numbers")
    assert numbers == {"name": "numbers", "shape": [2, 2], "datatype": "FP32", "data": [31.0, 40.0, 50.0, 38.0]}
    found = asked(dist, example["request"])
    for output in example["response"]["outputs"]:
        assert list(found[output["name"]].shape) == output["shape"]
        wanted = np.array(output["data"], object if output["datatype"] == "BYTES" else np.float32).reshape(output["shape"])
        np.testing.assert_array_equal(found[output["name"]], wanted)


# predict.py


def program(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", folder / "predict.py", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_program_answers_requests(dist: Path, tmp_path: Path) -> None:
    example = open_bundle(dist).signature["example"]
    said = program(dist)
    assert said.returncode == 0, said.stderr
    printed = {name: json.loads(values) for name, values in (line.split(" ", 1) for line in said.stdout.splitlines())}
    assert printed["class"] == next(o["data"] for o in example["response"]["outputs"] if o["name"] == "class")
    request = {"inputs": [
        {"name": "numbers", "shape": [1, 2], "datatype": "FP32", "data": [None, 20]}, {"name": "job", "shape": [1], "datatype": "BYTES", "data": [""]},
        {"name": "band", "shape": [1, 1], "datatype": "FP32", "data": [4]},
    ]}  # fmt: skip
    said = program(dist, write(tmp_path / "request.json", json.dumps(request)))
    assert said.returncode == 0, said.stderr
    printed = {name: json.loads(values) for name, values in (line.split(" ", 1) for line in said.stdout.splitlines())}
    request["inputs"][0]["data"] = [40.5, 20]  # the median of the training rows' ages
    np.testing.assert_allclose(printed["pay"], asked(dist, request)["pay"], rtol=1e-5)


def test_the_program_refuses_another_model(dist: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dist, tmp_path / "dist"))
    data = bytearray((copy / "people.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "people.onnx").write_bytes(data)
    said = program(copy)
    assert (said.returncode, said.stdout, said.stderr) == (1, "", "people.onnx is not the file that was exported\n")


def test_the_program_refuses_another_provider(dist: Path, tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in open_bundle(dist).verification["providers"]:
        pytest.skip("CUDA is really there")
    copy = Path(shutil.copytree(dist, tmp_path / "dist"))
    text = (copy / "predict.py").read_text()
    (copy / "predict.py").write_text(text.replace('PROVIDER = "CPUExecutionProvider"', 'PROVIDER = "CUDAExecutionProvider"'))
    assert (copy / "predict.py").read_text() != text
    said = program(copy)
    assert said.returncode == 1
    assert "onnxruntime runs the model with CPUExecutionProvider, not with CUDAExecutionProvider" in said.stderr


# Servers


def model_config() -> Any:
    """The part of Triton's inference.ModelConfig that a bundle uses, with the names and types of its model_config.proto."""
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = descriptor_pb2.FieldDescriptorProto
    enum = file.enum_type.add(name="DataType")
    for number, name in enumerate(("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
                                   "STRING", "BF16")):  # fmt: skip
        enum.value.add(name=f"TYPE_{name}", number=number)

    def message(called: str, **fields: tuple[int, Any, bool]) -> None:
        made = file.message_type.add(name=called)
        for key, (number, kind, repeated) in fields.items():
            field = made.field.add(name=key, number=number, label=types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL)
            if isinstance(kind, str):
                field.type = types.TYPE_ENUM if kind == "DataType" else types.TYPE_MESSAGE
                field.type_name = f".inference.{kind}"
            else:
                field.type = kind

    text, number = types.TYPE_STRING, types.TYPE_INT64
    message("ModelTensorReshape", shape=(1, number, True))
    message("ModelInput", name=(1, text, False), data_type=(2, "DataType", False), dims=(4, number, True), reshape=(5, "ModelTensorReshape", False))
    message("ModelOutput", name=(1, text, False), data_type=(2, "DataType", False), dims=(3, number, True), reshape=(5, "ModelTensorReshape", False))
    message("ModelDynamicBatching", preferred_batch_size=(1, types.TYPE_INT32, True), max_queue_delay_microseconds=(2, types.TYPE_UINT64, False))
    message("ModelConfig", name=(1, text, False), max_batch_size=(4, types.TYPE_INT32, False), input=(5, "ModelInput", True), output=(6, "ModelOutput", True),
            default_model_filename=(8, text, False), dynamic_batching=(11, "ModelDynamicBatching", False), backend=(17, text, False))  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()


def test_tritons_configuration_is_that_of_the_file(dist: Path) -> None:
    config = text_format.Parse((dist / "triton/people/config.pbtxt").read_text(), model_config())
    assert (config.name, config.backend, config.default_model_filename) == ("people", "onnxruntime", "model.onnx")
    assert config.max_batch_size > 1
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    proto = onnx.load(dist / "triton/people/1" / config.default_model_filename)
    names = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.STRING: "TYPE_STRING", onnx.TensorProto.INT64: "TYPE_INT64"}
    kinds = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    for declared, values in ((config.input, proto.graph.input), (config.output, proto.graph.output)):
        assert [tensor.name for tensor in declared] == [value.name for value in values]
        for tensor, value in zip(declared, values, strict=True):
            assert tensor.data_type == kinds[names[value.type.tensor_type.elem_type]].number
            shape = [d.dim_value for d in value.type.tensor_type.shape.dim][1:]
            assert list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims) == shape
            assert list(tensor.dims) == (shape or [1])


def test_kserve_serves_the_repository(dist: Path) -> None:
    """No YAML library is at hand: the indented keys are read, of which the file has no others than plain ones."""
    found, path = {}, []
    for line in (dist / "kserve.yaml").read_text().splitlines():
        if line.startswith("#"):
            continue
        indent = (len(line) - len(line.lstrip())) // 2
        key, _, value = line.strip().partition(":")
        path = [*path[:indent], key]
        if value.strip():
            found[".".join(path)] = value.strip()
    assert found == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata.name": "people",
        "metadata.annotations.model-sha256": f'"{open_bundle(dist).verification["sha256"]}"',
        "spec.predictor.model.modelFormat.name": "onnx",
        "spec.predictor.model.protocolVersion": "v2",
        "spec.predictor.model.runtime": "kserve-tritonserver",
        "spec.predictor.model.storageUri": "pvc://models/people/triton",
    }


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("digits", "digits"), ("My_Net v2", "my-net-v2"), ("2nd", "model-2nd"), ("\u00fc", "model"), ("a" * 80, "a" * 63), ("x" * 62 + "-y", "x" * 62)],
)
def test_names_that_kubernetes_takes(name: str, wanted: str) -> None:
    assert service_name(name) == wanted
