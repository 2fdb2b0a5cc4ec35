"""Describe a neural network in one small file and get a trained, verified, deployable ONNX model out of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if not (Path(__file__).parent / "compiler").is_dir():  # in the repository the parts lie beside this folder, which hides an installed package there
    __path__.append(str(Path(__file__).parent.parent))

from .compiler.diagnostics import SpecError

if TYPE_CHECKING:
    from .compiler.pipeline import Program as _Checked
    from .runtime.data.dataset import Dataset
    from .runtime.ensemble import Ensemble
    from .runtime.model import Model
    from .runtime.train import EnsembleResult, Result

__version__ = "0.1.0"
__all__ = ["Program", "SpecError", "compile", "load", "train"]


class Program:
    """A compiled spec, ready to be initialised."""

    def __init__(self, checked: _Checked, root: Path):
        self._checked, self._root = checked, root
        self._data: Dataset | None = None

    def init(self, seed: int | None = None) -> Model:
        """Parameters and optimiser state of one network; the seed of the train section when none is given. `train` makes an ensemble's members.

        The parameters that the train section's `start` names come from its file. The data is read only if something depends on it: a step that learns,
        balanced class weights, or a penalty scaled by the number of samples.
        """
        from .runtime.model import Model
        from .runtime.start import start_from

        if self._data is None and self._checked.needs_data():
            from .runtime.data.dataset import load as load_data

            self._checked, self._data = load_data(self._checked, self._root)
        train, data = self._checked.train, self._data
        chosen = seed if seed is not None else train.seed if train is not None else 0
        if data is None:
            model = Model(self._checked, chosen, root=self._root)
        else:
            model = Model(self._checked, chosen, data.learned.arrays, data.rows("train"), self._root)
        start_from(model, self._root)
        return model

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
    root = Path(data_root) if data_root is not None else root
    return Program(analyse(source, root=root, overrides=constants), root)


def load(path: str | Path) -> Model | Ensemble:
    """The model, or the ensemble, of a file that `save` or a run wrote."""
    from .runtime.ensemble import load as load_model

    return load_model(path)


def train(
    spec: str | Path,
    *,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    resume: bool = False,
    engine: str | None = None,
    device: str | None = None,
    **constants: Any,
) -> Result | EnsembleResult:
    """What `nnc train` does: data, training, checkpoints; the result holds the model, or the ensemble, and the figures of every split."""
    from .compiler.pipeline import read
    from .runtime.train import train as run

    source = read(Path(spec))
    root = Path(data_root) if data_root is not None else Path(spec).parent
    target = Path(out) if out is not None else Path("runs") / Path(spec).stem
    return run(source, root, target, overrides=constants, resume=resume, engine=engine, device=device)
