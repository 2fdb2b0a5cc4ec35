"""The wheel, installed beside the dependencies alone, goes the whole way on a spec of its own: nothing is missing from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("nnc", "compiler", "runtime", "grammar", "specs", "pyproject.toml", "README.md", "LICENSE")


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that succeeds, without the paths of this process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that the build leaves nothing behind here."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder / "dist", folder, cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("nnc/")}
    wanted = {
        Path("nnc" if folder == "nnc" else f"nnc/{folder}", path.relative_to(ROOT / folder)).as_posix()
        for folder in SOURCES[:5]
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert held == wanted


def test_an_installed_wheel_goes_the_whole_way(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    installed = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # A line of a .pth file that is a folder is put on the path, without that folder's own .pth files: the dependencies
    # without the editable installation.
    (installed / "dependencies.pth").write_text(f"{Path(np.__file__).parent.parent}\n")
    where = run(python, "-c", "import nnc, nnc.compiler.ir as ir; print(nnc.__file__); print(ir.__file__)", cwd=tmp_path).stdout.split()
    assert all(Path(found).is_relative_to(installed) for found in where)

    nnc = tmp_path / "env/bin/nnc"
    run(nnc, "new", "first", cwd=tmp_path)
    assert "verified" in run(nnc, "run", "first.nn", cwd=tmp_path).stdout
    (exported,) = (tmp_path / "runs/first/export").glob("*.onnx")
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    assert session.run(None, {pixels.name: np.zeros((3, *pixels.shape[1:]), np.float32)})[0].shape[0] == 3
    run(python, "-m", "nnc", "check", "first.nn", cwd=tmp_path)


def test_in_the_repository_the_package_is_what_lies_there() -> None:
    """Its folder nnc hides an installed one from an interpreter that is started there, and holds the top of the package alone."""
    without = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in getattr(f, '__name__', '')]"  # an editable install
    said = run(sys.executable, "-c", f"{without}; import nnc.runtime.model as m; print(m.__file__)", cwd=ROOT)
    assert Path(said.stdout.strip()) == ROOT / "runtime" / "model.py"
