"""What a good teacher would say about a spec that is correct. Advice never changes an exit status.

It reads the facts that operations declare, the graph for shapes, and the data section for what comes in and what a target is.
"""

from __future__ import annotations

from .advice_layers import advise_layers
from .advice_outputs import advise_outputs
from .advice_training import advise_training
from .diagnostics import Findings
from .links import Links
from .program import Program


def advise(program: Program, findings: Findings) -> None:
    links = Links(program)
    advise_layers(links, findings)
    if program.train is not None:
        advise_outputs(links, findings)
        advise_training(links, findings)
