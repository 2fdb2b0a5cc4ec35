"""Describe a neural network in one small file and get a trained, verified, deployable ONNX model out of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compiler.diagnostics import SpecError

if TYPE_CHECKING:
    from .compiler.pipeline import Program as _Checked
    from .runtime.model import Model
    from .runtime.train import Result

__version__ = "0.1.0"
__all__ = ["Program", "SpecError", "compile", "load", "train"]


class Program:
    """A compiled spec, ready to be initialised."""

    def __init__(self, checked: _Checked):
        self._checked = checked

    def init(self, seed: int | None = None) -> Model:
        """Parameters and optimiser state; the seed of the train section when none is given."""
        from .runtime.model import Model

        train = self._checked.train
        chosen = seed if seed is not None else train.seed if train is not None else 0
        return Model(self._checked, chosen)

    @property
    def advice(self) -> list[Any]:
        """What a good teacher would say about the spec, as diagnostics."""
        return self._checked.findings.advice


def compile(spec: str | Path, *, data_root: str | Path | None = None, **constants: Any) -> Program:
    """Compile a .nn file, or source text; keyword arguments replace `let` constants. Raises SpecError(.diagnostics)."""
    from .compiler.pipeline import analyse, read
    from .compiler.source import Source

    if isinstance(spec, str) and ("{" in spec or "\n" in spec):
        source, root = Source("<text>", spec), Path()
    else:
        source, root = read(Path(spec)), Path(spec).parent
    return Program(analyse(source, root=Path(data_root) if data_root is not None else root, overrides=constants))


def load(path: str | Path) -> Model:
    """The model of a file that `Model.save` or a run wrote."""
    from .runtime.model import load as load_model

    return load_model(path)


def train(spec: str | Path, *, out: str | Path | None = None, data_root: str | Path | None = None, resume: bool = False, **constants: Any) -> Result:
    """What `nnc train` does: data, training, checkpoints; the result holds the model and the figures of every split."""
    from .compiler.pipeline import read
    from .runtime.train import train as run

    source = read(Path(spec))
    root = Path(data_root) if data_root is not None else Path(spec).parent
    return run(source, root, Path(out) if out is not None else Path("runs") / Path(spec).stem, overrides=constants, resume=resume)
