"""Codes: what the program says is explained, and what is explained is said."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from nnc.compiler.codes import CODES
from nnc.compiler.diagnostics import Findings, render_text
from nnc.compiler.source import Source

ROOT = Path(__file__).parent.parent
PROSE = {"codes.py", "codes_advice.py", "codes_language.py", "codes_model.py", "codes_run.py"}


def used() -> set[str]:
    """Every quoted code in the sources, but for the explanations."""
    files = [p for part in ("compiler", "runtime", "nnc") for p in (ROOT / part).rglob("*.py") if p.name not in PROSE]
    return {code for path in files for code in re.findall(r'"([EW]\d{3})"', path.read_text("utf-8"))}


def test_every_code_in_use_is_explained() -> None:
    assert used() - CODES.keys() == set()


def test_every_explained_code_is_in_use() -> None:
    assert CODES.keys() - used() == set()


@pytest.mark.parametrize("code", CODES)
def test_an_explanation_is_read_in_a_terminal(code: str) -> None:
    lines = CODES[code].explanation.splitlines()
    assert 1 <= len(lines) <= 9
    assert all(len(line) <= 120 and line == line.rstrip() for line in lines)
    assert len(CODES[code].explanation) > len(CODES[code].title)
    assert lines[-1].rstrip()[-1] in ".:})?" or lines[-1].startswith("    ")


@pytest.mark.parametrize("code", CODES)
def test_a_title_is_one_short_line(code: str) -> None:
    values = {name: "x" for _, name, _, _ in string.Formatter().parse(CODES[code].title) if name}
    findings = Findings(Source("a.nn", "text"))
    findings.add(code, None, help="do this", **values)
    (found,) = findings.found
    assert len(found.title) < 90
    assert not found.title.endswith(".")
    assert render_text(found).endswith("= help: do this")


def test_the_examples_that_are_right_are_right() -> None:
    """Whole networks in explanations parse and check."""
    from nnc.compiler.pipeline import analyse

    for code, entry in CODES.items():
        for line in entry.explanation.splitlines():
            if line.startswith("    network(") and line.rstrip().endswith("}") and "..." not in line:
                assert analyse(Source(code, line.strip()), root=None).experiment.network.outputs, code
