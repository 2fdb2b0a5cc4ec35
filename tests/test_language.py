"""The language as a whole: texts of every kind, what a spec may say, and what reading one costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnc.compiler import syntax
from nnc.compiler.diagnostics import Diagnostic, Findings, SpecError, render_json, render_text
from nnc.compiler.parse import MAX_BYTES, RESERVED, parse, parse_expression
from nnc.compiler.pipeline import analyse, read
from nnc.compiler.resolve import Resolver
from nnc.compiler.source import Source, Span
from nnc.compiler.values import Scope

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
NETWORK = "network(x: float32[4]) { return y = x -> dense(3) }"


def refusals(text: str) -> list[Diagnostic]:
    try:
        analyse(Source("text.nn", text), root=None)
    except SpecError as error:
        return list(error.diagnostics)
    return []


def codes(text: str) -> list[str]:
    return [found.code for found in refusals(text)]


# Texts of every kind


@pytest.mark.parametrize("text", ["", " \n\t\r\n", "# only a comment", "#\n#", "\n" * 1000])
def test_a_file_without_a_network(text: str) -> None:
    (found,) = refusals(text)
    assert found.code == "E110"
    assert "write network" in found.help


@pytest.mark.parametrize("change", [lambda t: t.replace(" ", "\t"), lambda t: t.replace(" ", "\r\n"), lambda t: t.replace(" ", " # comment\n")])
def test_white_space_means_nothing_else(change) -> None:
    assert codes(change(NETWORK)) == []


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "marked.nn"
    path.write_bytes(b"\xef\xbb\xbf" + NETWORK.replace("{", "{\n").replace("\n", "\r\n").encode())
    source = read(path)
    assert analyse(source, root=None).experiment.network.outputs[0].name == "y"
    assert source.location(source.text.index("return"))[0] == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\0", "U+0000"), ("\ufeff", "U+FEFF"), ("🙂", "🙂"), ("é", "é"), ("\x1b", "U+001B"), ("\u202e", "U+202E"), ("$", "$"), ("\\", "\\"), ("@", "@")],
)
def test_a_character_that_has_no_place(text: str, shown: str) -> None:
    found = refusals(f"{NETWORK}\n{text}")
    assert [d.code for d in found if d.code != "E102"] == ["E101"]
    assert f"`{shown}`" in found[0].title


def test_a_file_of_a_megabyte() -> None:
    (found,) = refusals("#" * (MAX_BYTES + 1))
    assert (found.code, f"{MAX_BYTES:,} bytes" in found.label) == ("E105", True)
    assert codes(NETWORK + "#" * (MAX_BYTES - len(NETWORK))) == []


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000, "[" * 5000, "{" * 5000, NETWORK[:-2] + "(" * 3000 + ")" * 3000 + "}", '"' * 5000, "h = " * 5000, "network(" * 2000,
        "let a = " + "-" * 5000 + "1", "let a = 1" + " + 1" * 5000 + NETWORK, "let a = " + "f(" * 50 + ")" * 50,
        NETWORK + "train { " + "epochs = 1 " * 3000 + "}", "a b " * 5000, "\0" * 5000, "let x = x " * 3000,
        "network(x: float32[4]) {" + "".join(f"h{i} = q{i} -> relu " for i in range(3000)) + "return y = x }",
        "network(x: float32[4]) { return y = x -> repeat(1000000000, relu) }",
        "let a = 10 " + "".join(f"let b{i} = {'a' if not i else f'b{i - 1}'} * {'a' if not i else f'b{i - 1}'} " for i in range(60)) + NETWORK,
    ],
)  # fmt: skip
def test_extreme_texts_are_answered_at_once(text: str) -> None:
    began = time.process_time()
    found = refusals(text)
    assert time.process_time() - began < 2
    assert len(found) <= 100
    for diagnostic in found:
        assert diagnostic.help
        assert len(render_text(diagnostic)) < 3 * len(text) + 1000


# What a spec may say


def test_keywords_are_those_of_the_grammar() -> None:
    grammar = (ROOT / "grammar" / "nn.lark").read_text("utf-8")
    rules = re.sub(r"//[^\n]*", "", grammar)
    assert set(re.findall(r'"([a-z]+)"', rules)) == RESERVED


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_keywords_are_reserved_as_names_and_free_as_arguments(word: str) -> None:
    assert codes(f"network(x: float32[4]) {{ {word} = x -> relu return y = x -> dense(3) }}")
    findings = Findings(Source("", f"f({word}=1)"))
    call = parse_expression(findings.source, findings)
    assert findings.errors == []
    assert isinstance(call, syntax.Call)
    assert call.arguments[0].name is not None
    assert call.arguments[0].name.text == word


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("1e-3", 0.001), ("80%", 0.8), ("-2", -2), ("-(2 + 3)", -5), ("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("7 // 2", 3), ("7 / 2", 3.5),
        ("-7 // 2", -4), ("10 - 3 - 2", 5), ("100 / 10 / 5", 2.0), ("true", True), ("false", False),
        ('"a\\"b\\\\c\\n"', 'a"b\\c\n'), ("[1, 2.5, -3]", (1, 2.5, -3)),
        ("[]", ()), ("1.5e2", 150.0), ("2 * 50%", 1.0), ("0", 0), ("1E3", 1000.0), ('["a", "b"]', ("a", "b")), ('"# no comment"', "# no comment"),
    ],
)  # fmt: skip
def test_constants(text: str, value: object) -> None:
    findings = Findings(Source("", text))
    node = parse_expression(findings.source, findings)
    assert node is not None
    found = Resolver(findings).evaluate(node, Scope())
    assert findings.errors == []
    assert found == value
    assert type(found) is type(value) or isinstance(found, str)


numbers = st.one_of(st.integers(0, 10**6), st.floats(0, 1e6, allow_subnormal=False).map(lambda f: round(f, 6)))
expressions = st.recursive(
    numbers.map(repr).filter(lambda text: "e-" not in text or text.index("e") > 0),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(("+", "-", "*")), inner).map(" ".join), inner.map(lambda text: f"({text})"), inner.map(lambda text: f"(-({text}))")
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(expressions)
def test_arithmetic_is_pythons(text: str) -> None:
    findings = Findings(Source("", text))
    node = parse_expression(findings.source, findings)
    assert node is not None
    assert findings.errors == []
    assert Resolver(findings).evaluate(node, Scope()) == eval(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_answered(text: str) -> None:
    for found in refusals(text):
        assert found.help
        assert found.span is not None
        assert 0 <= found.span.start < found.span.end <= max(1, len(text))
        render_text(found)


@pytest.mark.parametrize("call", ["relu", "relu()", " relu ( ) "])
def test_parentheses_may_be_left_out(call: str) -> None:
    assert codes(f"network(x: float32[4]) {{ return y = x -> dense(3) -> {call} }}") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [("x -> dense(3)", "dense(x, 3)"),
     ("x -> dense(3)", "dense(x, units=3)"), ("x + x -> relu", "relu(x + x)"), ("x -> relu -> dense(3)", "dense(relu(x), 3)")],
)
def test_the_pipe_passes_its_left_side_first(one: str, other: str) -> None:
    def shown(text: str) -> list[tuple[str, object]]:
        network = analyse(Source("", f"network(x: float32[4]) {{ return y = {text} }}"), root=None).experiment.network
        return [(a.bound.name, a.operands) for a in network.applications]

    assert shown(one) == shown(other)


def names(text: str) -> list[str]:
    return list(analyse(Source("", text), root=None).inference.parameters)


def test_parameters_are_called_by_where_they_stand() -> None:
    text = """
    shared block head(x) { return z = x -> dense(4) }
    block residual(x) {
      r = x -> dense(4) -> relu -> dense(4, bias=false)
      return x + r
    }
    network(x: float32[4]) {
      stem = x -> dense(4) -> batch_norm -> dense(4, bias=false)
      body = stem -> residual -> repeat(2, residual)
      a = body -> head
      return a -> head
    }
    """
    assert [n for n in names(text) if n.endswith("weight")] == [
        "stem/dense/weight", "stem/dense_2/weight",
        "body/residual/r/dense/weight", "body/residual/r/dense_2/weight",
        "body/residual_2/r/dense/weight", "body/residual_2/r/dense_2/weight",
        "body/residual_3/r/dense/weight", "body/residual_3/r/dense_2/weight",
        "head/z/dense/weight",
    ]  # fmt: skip
    assert {"stem/batch_norm/scale", "stem/batch_norm/running_var"} <= set(names(text))


def test_editing_one_statement_renames_nothing_in_another() -> None:
    before = "network(x: float32[4]) { a = x -> dense(4)  b = a -> dense(4) -> dense(4)  return y = b -> dense(1) }"
    after = before.replace("a = x -> dense(4)", "a = x -> dense(4) -> relu -> dense(4)")
    assert [n for n in names(after) if not n.startswith("a/")] == [n for n in names(before) if not n.startswith("a/")]


def test_a_single_result_without_a_name_is_called_output() -> None:
    network = analyse(Source("", "network(x: float32[4]) { return x -> dense(3) }"), root=None).experiment.network
    assert [o.name for o in network.outputs] == ["output"]
    assert network.applications[0].path == "output/dense"


def test_a_constant_may_be_replaced() -> None:
    source = Source("", "let width = 3  let act = relu  network(x: float32[4]) { return y = x -> dense(width) -> act }")
    program = analyse(source, root=None, overrides={"width": "2 * 4", "act": "tanh"})
    assert program.inference.outputs["y"].shape[1:] == (8,)
    assert program.experiment.network.applications[1].bound.name == "tanh"
    assert analyse(source, root=None, overrides={"width": 5}).inference.outputs["y"].shape[1:] == (5,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, None, object(), {"a": 1}, "", "1 +", "nosuchword", "[[1]]", "x -> f"])
def test_a_constant_is_replaced_by_a_constant(value: object) -> None:
    source = Source("", "let width = 3  network(x: float32[4]) { return y = x -> dense(width) }")
    with pytest.raises(SpecError) as refused:
        analyse(source, root=None, overrides={"width": value})
    assert all(found.help for found in refused.value.diagnostics)


def test_one_mistake_in_a_block_is_one_diagnostic() -> None:
    text = "block f(x) { return y = x -> desne(3) } network(x: float32[4]) { a = x -> f b = x -> f return y = a + b + (x -> repeat(3, f)) }"
    assert codes(text) == ["E202"]


def test_errors_come_in_the_order_of_the_text() -> None:
    found = refusals("let q = 1 // 0  network(x: float32[0]) { return y = x -> desne(3) }  train { batch = 0 }")
    starts = [d.span.start for d in found if d.span is not None]
    assert starts == sorted(starts)
    assert len(starts) > 4


# Renderings


def test_json_rendering_counts_from_one() -> None:
    import json

    (found,) = refusals("network(x: float32[4]) {\n  return y = x -> desne(3)\n}")
    (shown,) = json.loads(render_json([found]))
    assert shown["place"] == {"file": "text.nn", "line": 2, "column": 19, "end_line": 2, "end_column": 24}
    assert (shown["code"], shown["severity"]) == ("E202", "error")


def test_carets_stand_under_what_they_mean() -> None:
    for text in ("\tnetwork(x: float32[4]) {\n\t\treturn y = x ->\tdesne(3)\n}", "network(x: float32[4]) { return y = x -> desne(\n3) }"):
        (found,) = refusals(text)
        lines = render_text(found).split("\n")
        code = next(line for line in lines if "desne" in line and "|" in line)
        carets = lines[lines.index(code) + 1]
        start = carets.index("^")
        assert code[start : start + carets.count("^")] == "desne"
        assert [c for c in code[:start] if c == "\t"] == [c for c in carets[:start] if c == "\t"]


def test_nothing_in_a_spec_reaches_the_terminal_as_a_command() -> None:
    text = 'network(x: float32[1]) { return y = x -> dense(1) } data { source = csv("a\x1b[2J\u202eb.csv", mising="\x07") x = column(c) } # \x1b[31m'
    shown = "".join(render_text(found) for found in refusals(text))
    assert shown.count("error[") > 0
    assert all(c.isprintable() or c in "\n\t" for c in shown)


def test_carets_know_wide_characters() -> None:
    (found,) = refusals('network(x: float32[4]) { return y = x -> dense(3, "日本") }')
    line, carets = render_text(found).split("\n")[3:5]
    assert carets.count("^") == len('"') * 2 + 2 * 2
    assert line.index('"') == carets.index("^")


def test_a_long_line_is_shown_whole_or_not_at_all() -> None:
    found = Findings(Source("a", "x"))
    found.add("E304", Span(0, 1), "y" * 500, help="h", size=3, shape="1, " * 500)
    assert len(found.found[0].title) < 260
    assert len(found.found[0].label) < 260


# The specs, and what reading one costs


@pytest.mark.parametrize("path", sorted((ROOT / "specs").glob("*.nn")), ids=lambda p: p.stem)
def test_specs_are_read_whole(path: Path) -> None:
    source = read(path)
    findings = Findings(source)
    parse(source, findings)
    assert findings.found == []


@pytest.mark.parametrize("path", sorted((ROOT / "specs").glob("*.nn")), ids=lambda p: p.stem)
def test_specs_are_checked_with_their_data(path: Path) -> None:
    source = read(path)
    root = SHARED / "data"
    if not root.is_dir() and "digits()" not in source.text and "table(" not in source.text:
        pytest.skip(f"no data at {root}")
    assert analyse(source, root=root if root.is_dir() else path.parent).findings.errors == []


def test_checking_starts_fast() -> None:
    """Neither numpy nor onnx nor onnxruntime, nor the runtime, is imported to check a spec."""
    script = (
        "import sys; from pathlib import Path; from nnc.compiler.pipeline import analyse, read; p = Path(sys.argv[1]); "
        "analyse(read(p), root=p.parent); print(*{m.partition('.')[0] for m in sys.modules}, *sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", script, str(ROOT / "specs" / "digits.nn")], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "onnx", "onnxruntime", "safetensors", "torch", "nnc.runtime"} & set(shown)


def test_the_tables_are_those_of_the_grammar():
    """A start uses them only if they fit, so stale ones would go unnoticed and slow."""
    from nnc import grammar

    text = grammar.TEXT.read_text("utf-8")
    written = json.loads(grammar.TABLES.read_text())["key"]
    assert written["grammar"] == text, "run python -m nnc.grammar"
    version = written["lark"]
    assert grammar.tables(text, version) is not None
    assert grammar.tables(text + " ", version) is None
    assert grammar.tables(text, "another") is None


def test_without_tables_the_grammar_itself_is_read(monkeypatch, tmp_path):
    from nnc import grammar
    from nnc.compiler import parse

    source = Source("digits.nn", (Path(__file__).parent.parent / "specs" / "digits.nn").read_text())
    with_tables = parse.parse(source, Findings(source))
    monkeypatch.setattr(grammar, "TABLES", tmp_path / "none.json")
    parse._lark.cache_clear()
    try:
        assert parse.parse(source, Findings(source)) == with_tables
    finally:
        parse._lark.cache_clear()
