"""A new operation touches one file: the example of CONTRIBUTING.md, written into a copy of the package, works everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from planted import ROOT, copy

USES = '''
import importlib.util, sys
from pathlib import Path

import numpy as np
import onnxruntime

import nnc
from networks import check_gradients, spec, spread
from nnc.cli import main

folder, root = Path(sys.argv[1]), Path(sys.argv[2])
assert Path(nnc.__file__).is_relative_to(folder), "the copy is what is imported"
BODY = "  h = x -> dense(5) -> {}\\n  return output = h -> dense(2)"


def refusal(call):
    try:
        nnc.compile(spec(BODY.format(call)))
    except nnc.SpecError as error:
        return str(error)
    raise AssertionError(f"{call} was taken")


assert "squareplus" in refusal("squarplus"), "a close name is suggested"
assert "E207" in refusal("squareplus(b=-1)") and "greater than 0" in refusal("squareplus(b=-1)")
assert "E206" in refusal("squareplus(b=true)")
assert "`c`" in refusal("squareplus(c=1)")

text = spec(BODY.format("squareplus(b=2)"))
model = nnc.compile(text).init(1)
random = np.random.default_rng(0)
weight = model.parameters["h/dense/weight"]
assert abs(weight.std() - (2 / 3) ** 0.5) < 0.4, "init=auto is he_normal before it"
spread(model, 1)
batch = {"x": random.normal(size=(6, 3)), "y": random.normal(size=(6, 2))}
check_gradients(model, batch)
before = model.loss(batch)
for _ in range(50):
    model.step(batch)
assert model.loss(batch) < before

alone = nnc.compile("network(z: float32[7]) { return y = z -> squareplus }").init(0)
z = np.linspace(-9, 9, 7, dtype=np.float32)[None]
wanted = (z + np.sqrt(z * z + 4)) / 2
np.testing.assert_allclose(alone.predict({"z": z})["y"], wanted, rtol=1e-5)
alone.export_onnx(folder / "alone.onnx")
(got,) = onnxruntime.InferenceSession(str(folder / "alone.onnx"), providers=["CPUExecutionProvider"]).run(None, {"z": z})
np.testing.assert_allclose(got, wanted, rtol=1e-5)

(folder / "s.nn").write_text(text)
assert main(["check", str(folder / "s.nn")]) == 0

found = importlib.util.spec_from_file_location("reference", root / "docs" / "reference.py")
reference = importlib.util.module_from_spec(found)
found.loader.exec_module(reference)
entry = reference.reference().partition("### squareplus\\n")[2].partition("\\n### ")[0]
assert "(z + sqrt(z^2 + b)) / 2" in entry and "Barron" in entry and "- `b`: how wide the bend at 0 is (a number, default 4)" in entry, entry
'''


def example() -> str:
    """The code that CONTRIBUTING.md adds, and where."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "@operation" in block)
    return str(code)


@pytest.mark.parametrize("file", ["activations.py", "layers.py"])
def test_an_activation_is_added_in_one_file(file: str, tmp_path: Path) -> None:
    target = copy(tmp_path) / "compiler" / "ops" / file
    code = example()
    target.write_text(f"{target.read_text('utf-8')}\n\n{code}", "utf-8")
    run = [sys.executable, "-P", "-c", USES, tmp_path, ROOT]
    paths = f"{tmp_path}:{ROOT / 'tests'}"
    done = subprocess.run(run, env={"PYTHONPATH": paths, "PATH": "", "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_without_it_the_word_is_unknown(tmp_path: Path) -> None:
    """What the test above sees comes from the example alone."""
    copy(tmp_path)
    program = "import nnc; nnc.compile('network(z: float32[2]) { return z -> squareplus }')"
    done = subprocess.run([sys.executable, "-P", "-c", program], env={"PYTHONPATH": str(tmp_path), "PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error[E2" in done.stderr
    assert "squareplus" in done.stderr
