"""Which layer of a checked network feeds which: what advice about neighbours asks."""

from __future__ import annotations

from collections.abc import Iterator

from .experiment import Application, Network, Ref
from .ir import Value
from .program import Program


class Links:
    """Applications by index, in the order of the network, with those that take their results. `weighted` are those that mix what comes in
    by weights or centres of their own.
    """

    def __init__(self, program: Program):
        network: Network = program.experiment.network
        self.program = program
        self.applications = network.applications
        self.outputs = {o.ref.application for o in network.outputs}
        self.users: list[list[int]] = [[] for _ in self.applications]
        for index, application in enumerate(self.applications):
            for before in feeds(application):
                self.users[before].append(index)
        decaying = {p.name.rpartition("/")[0] for p in program.inference.trainable if p.decays}
        self.weighted = {i for i, a in enumerate(self.applications) if a.path in decaying or hasattr(a.bound.params, "units")}

    def facts(self, index: int) -> frozenset[str]:
        return self.applications[index].bound.operation.facts

    def having(self, fact: str) -> Iterator[tuple[int, Application]]:
        """The applications whose operation has a fact."""
        return ((index, application) for index, application in enumerate(self.applications) if fact in self.facts(index))

    def reaches_weights(self, start: int) -> bool:
        """Whether layers with weights come after this one, which is what makes it hidden."""
        stack, seen = list(self.users[start]), set[int]()
        while stack:
            index = stack.pop()
            if index in self.weighted:
                return True
            if index not in seen:
                seen.add(index)
                stack += self.users[index]
        return False

    def before(self, index: int, through: frozenset[str] = frozenset()) -> int | None:
        """The application whose result this one takes first, past those with one of the facts; None where that is an input."""
        found = next(iter(feeds(self.applications[index])), None)
        while found is not None and self.facts(found) & through:
            found = next(iter(feeds(self.applications[found])), None)
        return found

    def value(self, ref: Ref | float) -> Value | None:
        return self.program.inference.results.get(ref) if isinstance(ref, Ref) else None

    def given(self, index: int) -> Value | None:
        """The first tensor that an application takes."""
        return self.value(self.applications[index].operands[0])


def feeds(application: Application) -> list[int]:
    """The applications whose results are operands."""
    return [o.application for o in application.operands if isinstance(o, Ref) and o.application >= 0]
