"""`nnc fmt`: one layout for every way to write a spec, and nothing but white space changes."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from drawing import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import command, leftovers, nnc, refused, write

from nnc.compiler.diagnostics import Findings, SpecError
from nnc.compiler.formatting import formatted
from nnc.compiler.parse import parse
from nnc.compiler.source import Source, Span
from nnc.compiler.wrapping import WIDTH

ROOT = Path(__file__).parent.parent
SPECS = sorted((ROOT / "specs").glob("*.nn"))
TOKEN = re.compile(r'#[^\n]*|"(?:\\.|[^"\\\n])*"|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?%?|\w+|->|//|\s+|.')


def layout(text: str) -> str:
    return formatted(Source("text.nn", text))


def parses(text: str) -> bool:
    findings = Findings(Source("text.nn", text))
    parse(findings.source, findings)
    return not findings.errors


TEXTS = [t for path in (*SPECS, *(ROOT / "tests" / "cases").glob("*.nn"), *(ROOT / "benchmarks" / "workloads").glob("*.nn"))
         if parses(t := path.read_text("utf-8"))]  # fmt: skip


def meaning(text: str) -> Any:
    """The AST of a text without places."""
    findings = Findings(Source("text.nn", text))
    file = parse(findings.source, findings)
    findings.stop_on_errors()
    return [placeless(part) for part in (file.lets, file.blocks, file.networks, file.sections)]


def placeless(node: Any) -> Any:
    if isinstance(node, tuple):
        return [placeless(part) for part in node]
    if dataclasses.is_dataclass(node):
        return type(node).__name__, [placeless(getattr(node, f.name)) for f in dataclasses.fields(node) if f.name != "span"]
    assert not isinstance(node, Span)
    return node


def comments(text: str) -> list[str]:
    return [token.rstrip() for token in TOKEN.findall(text) if token.startswith("#")]


def check(text: str) -> str:
    """The layout of a text, with all that must be true of one."""
    made = layout(text)
    assert layout(made) == made
    assert meaning(made) == meaning(text)
    assert comments(made) == comments(text)
    assert not re.search(r"[ \t]\n|\n\n\n|\t|^\n|\{\n\n|\n\n\}", re.sub(r"#[^\n]*|\"[^\"\n]*\"", "x", made))
    assert made.endswith("\n") or not made
    return made


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_specs_are_in_the_layout(path: Path) -> None:
    assert layout(path.read_text("utf-8")) == path.read_text("utf-8")


def test_the_spec_of_the_readme_is_in_the_layout() -> None:
    (spec,) = (block for block in re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL) if block.startswith("# flowers.nn"))
    assert layout(spec) == spec


def test_every_case_that_parses() -> None:
    assert len(TEXTS) > 100
    for text in TEXTS:
        check(text)


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_random_networks(seed: int) -> None:
    check(draw(seed).text)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(TEXTS), st.randoms(use_true_random=False))
def test_any_white_space_and_any_comments(text: str, random: Any) -> None:
    tokens = [token for token in TOKEN.findall(text) if not token.isspace() and not token.startswith("#")]
    gaps = [" ", " ", " ", "  ", "\n", "\n\n\n", "\t", "\r\n", " # why\n", "\n# alone\n", "\n\n  #alone # too \t\n\n", "# a\n# b\n"]
    check("".join(random.choice(gaps) + token for token in tokens) + random.choice(gaps))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([path.read_text("utf-8") for path in SPECS]), st.randoms(use_true_random=False))
def test_spaces_between_words_are_no_choice(text: str, random: Any) -> None:
    loose = [" " * random.randint(1, 9) if token.isspace() and "\n" not in token else token for token in TOKEN.findall(text)]
    assert layout("".join(loose)) == text


LOOSE = """

let  a=1  # one
let long_name   =  2


# about the network
shared block f( v,act=relu ) { return v->dense( a )->act }   # a block
network (x:float32[ 4 ],z : float32){


  # the first
  h=x->f   # why
  two , more = concat( x,z )->split( 2 )

  return y=h+ -two*1/2->relu,
    last=more -> dense(long_name//2,init=normal(std = 0.1)) }
train{loss=mse(y,t)#what
optimizer=sgd(lr=1/10)
# the end
}
export{file="a  b.onnx" outputs=[y , last]}# out
# nothing
"""
TIGHT = """\
let a         = 1  # one
let long_name = 2

# about the network
shared block f(v, act = relu) { return v -> dense(a) -> act }  # a block

network(x: float32[4], z: float32) {
  # the first
  h         = x -> f  # why
  two, more = concat(x, z) -> split(2)

  return y = h + -two * 1 / 2 -> relu,
         last = more -> dense(long_name // 2, init=normal(std=0.1))
}

train {
  loss      = mse(y, t)  # what
  optimizer = sgd(lr=1/10)
  # the end
}

export { file = "a  b.onnx"  outputs = [y, last] }  # out
# nothing
"""


def test_the_layout() -> None:
    assert check(LOOSE) == TIGHT.replace("# what", "#what")


def test_a_long_pipe_goes_on_under_its_first_arrow() -> None:
    stage = " -> dense(64, init=he_normal) -> batch_norm"
    made = check(f"network(x: float32[4]) {{\nreturn y = x{stage * 4}\n}}")
    first, *rest = made.splitlines()[1:-1]
    assert rest
    assert all(line.index("->") == first.index("->") for line in rest)
    assert all(len(line) <= WIDTH for line in (first, *rest))


def test_a_long_list_goes_on_behind_its_bracket() -> None:
    made = check(f"data {{ source = table(x=[{', '.join(map(str, range(200)))}]) }}")
    first, *rest = made.splitlines()[1:-1]
    assert len(rest) > 5
    assert all(len(line) - len(line.lstrip()) == first.index("[") + 1 for line in rest)
    assert all(len(line) <= WIDTH for line in (first, *rest))


def test_long_headers_and_sums() -> None:
    inputs = ", ".join(f"input_number_{i}: float32[{i + 1}]" for i in range(8))
    terms = " + ".join(f"{i}.5 * mse(output_{i}, target_{i})" for i in range(8))
    made = check(f"network({inputs}) {{ return y = input_number_0 }} train {{ loss = {terms} }}")
    assert all(len(line) <= WIDTH for line in made.splitlines())
    assert set(re.findall(r"\n *\+", made)) == {"\n         +"}


def test_columns_end_where_an_empty_line_parts() -> None:
    made = check("data {\n a = column(x) -> category\n bcd = column(xyz) -> category # c\n\n efghij = f\n}")
    assert made == "data {\n  a   = column(x)   -> category\n  bcd = column(xyz) -> category  # c\n\n  efghij = f\n}\n"


@pytest.mark.parametrize("text", ["", "\n\n", " \t\r\n"])
def test_nothing(text: str) -> None:
    assert layout(text) == ""


def test_comments_alone() -> None:
    assert check("\n\n#a\n\n\n  # b  \n#c") == "#a\n\n# b\n#c\n"


def test_what_does_not_parse_is_refused() -> None:
    with pytest.raises(SpecError):
        layout("network(x: float32[4]) { return y = }")


# The command


def test_fmt_rewrites_what_is_loose_alone(tmp_path: Path) -> None:
    loose, tight = write(tmp_path / "loose.nn", LOOSE), write(tmp_path / "tight.nn", TIGHT)
    loose.chmod(0o640)
    before = tight.stat()
    said = nnc("fmt", loose, tight)
    assert (said.status, said.out, said.err) == (0, f"{loose}\n", "")
    assert loose.read_text("utf-8") == TIGHT.replace("# what", "#what")
    assert loose.stat().st_mode & 0o777 == 0o640
    assert (tight.stat().st_ino, tight.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert leftovers(tmp_path) == []
    assert nnc("fmt", loose).out == ""


def test_check_names_files_and_changes_nothing(tmp_path: Path) -> None:
    loose, tight = write(tmp_path / "loose.nn", LOOSE), write(tmp_path / "tight.nn", TIGHT)
    said = nnc("fmt", "--check", loose, tight)
    assert (said.status, said.out) == (1, f"{loose}: would change\n")
    assert loose.read_text("utf-8") == LOOSE
    assert nnc("fmt", "--check", tight).status == 0


def test_a_file_that_does_not_parse_stays(tmp_path: Path) -> None:
    bad, loose = write(tmp_path / "bad.nn", "network(x: float32[4] {"), write(tmp_path / "loose.nn", LOOSE)
    said = nnc("fmt", bad, loose, tmp_path / "absent.nn")
    assert said.status == 1
    assert said.errors() == ["E103", "E401"]
    assert bad.read_text("utf-8") == "network(x: float32[4] {"
    assert loose.read_text("utf-8") != LOOSE, "the others are written all the same"


def test_line_ends_and_byte_order_mark_go(tmp_path: Path) -> None:
    path = tmp_path / "marked.nn"
    path.write_bytes(b"\xef\xbb\xbf" + TIGHT.replace("\n", "\r\n").encode())
    assert nnc("fmt", "--check", path).status == 1
    assert nnc("fmt", path).status == 0
    assert path.read_bytes() == TIGHT.encode()
    path.write_bytes(b"\xff")
    refused(nnc("fmt", path), "E111")


def fmt_piped(text: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command("fmt", "-", *options), input=text, capture_output=True, timeout=60, env=os.environ | {"LC_ALL": "C"}, check=False)


def test_standard_input() -> None:
    done = fmt_piped(LOOSE.replace("# why", "# größer").encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == TIGHT.replace("# what", "#what").replace("# why", "# größer")
    done = fmt_piped(LOOSE.encode(), "--check")
    assert (done.returncode, done.stdout) == (1, b"<stdin>: would change\n")
    done = fmt_piped(b"network(")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"error[E103]" in done.stderr
