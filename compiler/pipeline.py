"""The phases in order: text -> AST -> checked model -> forward graphs -> training graphs -> plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import advice
from .agree import check_agreement
from .check import check
from .diagnostics import Findings
from .lower import MAX_BYTES, lower
from .parse import parse
from .program import Program
from .schema import Schema
from .shown import bytes_of
from .source import Source

__all__ = ["Program", "analyse", "decoded", "read"]


def read(path: Path, name: str | None = None) -> Source:
    """The text of a spec; E401 or E111 where there is none."""
    findings = Findings(Source(name or str(path), ""))
    try:
        return decoded(path.read_bytes(), name or str(path))
    except OSError as error:
        findings.add("E401", None, str(error.strerror), path=str(path), help="give the path of a .nn file")
    findings.stop_on_errors()
    raise AssertionError("unreachable")


def decoded(data: bytes, name: str) -> Source:
    """The text of a spec's bytes, without a byte order mark and carriage returns; E111 where they are no text."""
    findings = Findings(Source(name, ""))
    try:
        return Source(name, data.decode("utf-8-sig").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        findings.add("E111", None, f"byte {error.start} is not UTF-8", name=name, help="save it as UTF-8")
    findings.stop_on_errors()
    raise AssertionError("unreachable")


def analyse(
    source: Source,
    *,
    root: Path | None,
    overrides: Mapping[str, Any] | None = None,
    schema: Schema | None = None,
    learned: Mapping[str, tuple[Any, ...]] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Program:
    """Everything that can be known before data is read whole; raises SpecError with all independent errors.

    `root` is the data root, None to leave sources unopened. Once the data is read, `schema` says what it is, and `learned`
    which classes the data steps found.
    """
    findings = Findings(source)
    file = parse(source, findings)
    experiment = check(source, file, findings, root, overrides, schema)
    if experiment is None:
        findings.stop_on_errors()
        raise AssertionError("a file without errors gives a checked model")
    dtype = experiment.train.params.dtype if experiment.train else "float32"
    inference = lower(experiment.network, findings, training=False, dtype=dtype, max_bytes=max_bytes)
    program = Program(experiment, findings, inference, learned=learned)
    if experiment.train is not None:
        _ = program.training_forward  # a step without a surrogate is noticed here
    check_agreement(program, learned)
    findings.stop_on_errors()
    _check_budget(program, max_bytes)
    findings.stop_on_errors()
    advice.advise(program, findings)
    return program


def _check_budget(program: Program, max_bytes: int) -> None:
    """Everything that a step, or a prediction, keeps at once stays within the limit."""
    data, train, findings = program.experiment.data, program.experiment.train, program.findings
    waiting = data is not None and len(program.prepared) < len(data.names)
    parameters = program.parameter_bytes * program.experiment.members
    needed = parameters
    if needed <= max_bytes:
        n = program.batch
        if train is None or waiting:
            needed = max(needed, program.inference_bytes(n))
        elif not program.surely_trains_in(max_bytes, n):
            needed = max(needed, program.training_bytes(n))
    if needed > max_bytes:
        label = f"{bytes_of(needed)} at batch {program.batch:,}, {bytes_of(parameters)} of them parameters"
        findings.add("E307", train.at("batch") if train is not None else program.experiment.network.outputs[0].span, label,
                     what="training" if train is not None else "the network", help="use fewer units or a smaller batch, or raise --max-bytes")  # fmt: skip
