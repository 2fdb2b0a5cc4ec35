"""Trained networks of one spec whose outputs are averaged, with the surface of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler import ensemble as graphs
from nnc.compiler.ensemble import member_name
from nnc.compiler.ir import Graph
from nnc.compiler.training import Evaluation

from .executor import Arena, Executor
from .files import read_arrays, refuse, write_arrays
from .kernels import Randomness
from .model import Model, load_with, made_again

Array = np.ndarray[Any, Any]
OWN = ("seed", "samples", "step", "classes")  # what a file says of each member; the rest is the same for all


class Ensemble:
    """`program` is the first member's: it says what all have in common. A variable of a member is called `member_<i>/<name>`, from 1 on."""

    def __init__(self, members: Sequence[Model]):
        self.members = tuple(members)
        self.program = self.members[0].program
        self.arena = Arena()
        first = self.members[0].learned
        self.shared = frozenset(name for name, array in first.items() if all(np.array_equal(m.learned[name], array) for m in self.members))
        self.known: dict[str, Array] = {name: first[name] for name in self.shared}
        for index, member in enumerate(self.members, 1):
            own = {name: array for name, array in member.learned.items() if name not in self.shared}
            self.known |= {member_name(index, name): array for name, array in (dict(member.parameters) | own).items()}

    @property
    def alike(self) -> bool:
        """Whether the data steps have learned the same for all members, so that they agree on what prepared rows are."""
        return len(self.shared) == len(self.members[0].learned) and all(m.program.learned == self.program.learned for m in self.members)

    @property
    def parameters(self) -> dict[str, Array]:
        """The members' own arrays, by member and name."""
        return {member_name(i, name): array for i, member in enumerate(self.members, 1) for name, array in member.parameters.items()}

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """The mean of the members' outputs for prepared inputs; E513 where the members prepare rows differently: `serve` takes raw ones."""
        if not self.alike:
            refuse("E513", "each member has data steps of its own", "give raw columns to `serve`, or prepared ones to one of `members`")
        found = [member.predict(inputs) for member in self.members]
        return {name: np.mean([f[name] for f in found], axis=0, dtype=array.dtype) if array.dtype.kind == "f" else array for name, array in found[0].items()}

    def serve(self, raw: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs in the units of their columns, and decisions, for raw columns by data name: what the exported file computes."""
        graph, variables = self.serving(decisions=True, dtype=self.program.dtype)
        columns = {name: np.asarray(raw[name], object if value.dtype == "string" else None) for name, value in graph.leaves("input").items()}
        found = Executor(graph, variables, Randomness(0), self.arena).run(columns)
        return {name: array.copy() for name, array in found.items()}

    def serving(self, outputs: tuple[str, ...] = (), *, decisions: bool = False, dtype: str = "float32") -> tuple[Graph, dict[str, Array]]:
        """The graph from raw columns to decoded outputs of the average, and its variables."""
        graph = graphs.averaged_graph([m.program for m in self.members], self.shared, outputs, decisions=decisions, dtype=dtype)
        return graph, {name: self.known[name].astype(dtype) for name in graph.leaves("variable")}

    def evaluation(self, *, weighted: bool = False) -> Evaluation:
        """Losses and metrics of the average, from raw columns."""
        return graphs.averaged_evaluation([m.program for m in self.members], self.shared, weighted=weighted)

    def export_onnx(self, path: str | Path, rows: Mapping[str, Array] | None = None, *, opset: int | None = None) -> dict[str, Any]:
        """Write the verified ONNX file; the report of the verification. `rows` are raw rows to verify with, `opset` replaces the spec's."""
        from .export import export

        return export(self.program, *self.serving(), Path(path), rows, opset=opset)

    def save(self, path: str | Path) -> None:
        """Weights, spec and learned data steps of all members in one checked file, without the optimisers' state."""
        arrays: dict[str, Array] = {}
        for index, member in enumerate(self.members, 1):
            kept = {name: array for name, array in member.state().items() if not name.startswith("slot/")}
            arrays |= {member_name(index, name): array for name, array in (kept | member.learned).items()}
        abouts = [member.about() for member in self.members]
        common = {key: value for key, value in abouts[0].items() if key not in OWN}
        write_arrays(Path(path), arrays, common | {"members": [{key: about[key] for key in OWN} for about in abouts]})


def load(path: str | Path) -> Model | Ensemble:
    """The model or the ensemble of a file that `save` or a run wrote; E702 if it is damaged."""
    arrays, about = read_arrays(Path(path))
    if "members" not in about:
        return load_with(Path(path))[0]
    try:
        owns = [dict(own) for own in about["members"]]
    except (TypeError, ValueError) as error:
        refuse("E702", f"its checksum is right, its content is not: {error}", "take a file that nnc wrote", path=str(path))
    members = []
    for index, own in enumerate(owns, 1):
        start = member_name(index, "")
        mine = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
        members.append(made_again(mine, about | own, Path(path)))
    if not members:
        refuse("E702", "it has no members", "take a file that nnc wrote", path=str(path))
    return Ensemble(members)
