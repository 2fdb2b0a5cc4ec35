"""Programs with the diagnostics that they must get, `tests/cases/*.nn`.

A line carries what is expected at the start of its spans: `### E301 "larger than"`, several one after another; the quoted text
occurs in the title, the label, a note or the help. `### ^ E106 "..."` speaks of the line above, `### ^^ ...` of the one above that:
for lines that cannot end with a comment. Directives stand on lines of their own: `#: set width=128` replaces a constant,
`#: no data` leaves the source unopened, `#: load` reads the data whole. What has no place in the file is expected on such a
line. A sibling `.txt` holds the exact rendering.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nnc.compiler.codes import CODES
from nnc.compiler.diagnostics import Diagnostic, SpecError, render_text
from nnc.compiler.pipeline import analyse
from nnc.compiler.source import Source

CASES = Path(__file__).with_name("cases")
FILES = sorted(CASES.glob("*.nn"))
EXPECTED = re.compile(r'([EW]\d{3}) "([^"]*)"')

# Codes that no check of a spec and no reading of its data gives: they arise while a program runs or writes, and are tested there.
ELSEWHERE = {
    "E105": "test_language.py",
    "E111": "test_commands.py",
    "E510": "test_run.py",
    "E511": "test_resume.py",
    "E512": "test_run.py",
    "E513": "test_losses_metrics.py",
    "E514": "test_commands.py",
    "E515": "test_operations.py",
    "E521": "test_ensemble.py",
    "E601": "test_verification.py",
    "E605": "test_verification.py",
    "E607": "test_verification.py",
    "E611": "test_inspect.py",
    "E612": "test_predict.py",
    "E613": "test_reproduce.py",
    "E620": "test_quantisation.py",
    "E621": "test_quantisation.py",
    "E701": "test_files.py",
    "E702": "test_files.py",
    "E703": "test_bundle.py",
    "E704": "test_resume.py",
    "E705": "test_commands.py",
    "E706": "test_commands.py",
    "E707": "test_columnar.py",
    "E708": "test_fast.py",
    "E709": "test_device.py",
    "E710": "test_onnx_training.py",
}


@dataclass
class Case:
    path: Path
    text: str
    expected: list[tuple[int, str, str]] = field(default_factory=list)  # line, code, text
    overrides: dict[str, Any] = field(default_factory=dict)
    directive: int = 0  # the line of the first directive
    opens: bool = True
    loads: bool = False

    @property
    def source(self) -> Source:
        return Source(self.path.name, self.text)


def read_case(path: Path) -> Case:
    case = Case(path, path.read_text("utf-8"))
    for number, line in enumerate(case.text.split("\n"), 1):
        if line.startswith("#:"):
            case.directive = case.directive or number
            match line[2:].partition("###")[0].split():
                case ["set", setting]:
                    name, _, value = setting.partition("=")
                    case.overrides[name] = value
                case ["no", "data"]:
                    case.opens = False
                case ["load"]:
                    case.loads = True
                case other:
                    raise AssertionError(f"{path.name}:{number}: no directive {other}")
        _, mark, said = line.partition("###")
        if mark:
            found = EXPECTED.findall(said)
            rest = EXPECTED.sub("", said).strip()
            assert found, f"{path.name}:{number}: an expectation is written ### E301 \"text\""
            assert not rest.strip("^"), f"{path.name}:{number}: not understood: {rest}"
            case.expected += [(number - rest.count("^"), code, text) for code, text in found]
    return case


def diagnose(case: Case) -> list[Diagnostic]:
    """Everything that is said about the program: its errors, or its advice."""
    root = CASES if case.opens else None
    try:
        program = analyse(case.source, root=root, overrides=case.overrides)
        if case.loads:
            from nnc.runtime.data.dataset import load

            load(program, CASES)
    except SpecError as error:
        return list(error.diagnostics)
    return program.findings.advice


def place(case: Case, diagnostic: Diagnostic) -> int:
    if diagnostic.span is None or diagnostic.source is None or diagnostic.source.text != case.text:
        return case.directive
    return diagnostic.source.location(diagnostic.span.start)[0]


def everything(diagnostic: Diagnostic) -> str:
    return "\n".join((diagnostic.title, diagnostic.label, diagnostic.help, *(note.text for note in diagnostic.notes)))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_case(path: Path) -> None:
    case = read_case(path)
    missing = list(case.expected)
    unexpected = []
    for diagnostic in diagnose(case):
        line, said = place(case, diagnostic), everything(diagnostic)
        meant = next((e for e in missing if e[0] == line and e[1] == diagnostic.code and e[2] in said), None)
        if meant is None:
            unexpected.append(f"line {line}\n{render_text(diagnostic)}")
        else:
            missing.remove(meant)
    wanted = [f'line {line} ### {code} "{text}"' for line, code, text in missing]
    assert not unexpected + wanted, "\n".join(["unexpected:", *unexpected, "missing:", *wanted])


@pytest.mark.parametrize("path", sorted(CASES.glob("*.txt")), ids=lambda p: p.stem)
def test_rendering(path: Path) -> None:
    case = read_case(path.with_suffix(".nn"))
    rendered = "".join(render_text(d) + "\n" for d in diagnose(case))
    assert rendered == path.read_text("utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_error_is_complete(path: Path) -> None:
    """A place, something to do, and no notes or spans outside the text."""
    case = read_case(path)
    for diagnostic in diagnose(case):
        assert diagnostic.help, render_text(diagnostic)
        if diagnostic.span is not None and diagnostic.source is not None:
            for span in (diagnostic.span, *(note.span for note in diagnostic.notes)):
                assert 0 <= span.start < span.end <= max(1, len(diagnostic.source.text)), render_text(diagnostic)


def test_every_code_has_a_case() -> None:
    caused = {code for path in FILES for _, code, _ in read_case(path).expected}
    assert CODES.keys() - caused - ELSEWHERE.keys() == set()
    assert caused & ELSEWHERE.keys() == set()
    assert ELSEWHERE.keys() <= CODES.keys()
    for code, name in ELSEWHERE.items():
        text = Path(__file__).with_name(name).read_text("utf-8")
        assert f'"{code}"' in text or CODES[code].title.partition(" is ")[2] in text, f"{name} does not test {code}"


def test_expectations_can_fail(tmp_path: Path) -> None:
    """A case with a wrong code, a wrong text or a wrong line fails."""
    text = 'network(x: float32[4]) {\n  return y = x -> desne(3)%s\n}%s\n'
    for here, below in (('  ### E203 "dense"', ""), ('  ### E202 "no such text"', ""), ("", '  ### E202 "dense"'), ("", "")):
        path = tmp_path / "wrong.nn"
        path.write_text(text % (here, below), "utf-8")
        with pytest.raises(AssertionError):
            test_case(path)
    path.write_text(text % ('  ### E202 "dense"', ""), "utf-8")
    test_case(path)
