"""The TextMate grammar beside the real one: the same words, and every token of every spec in the scope that it should have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nnc.compiler.parse import tokens_of
from nnc.compiler.syntax import RESERVED

ROOT = Path(__file__).parent.parent
LARK = (ROOT / "grammar" / "nn.lark").read_text("utf-8")
GRAMMAR = json.loads((ROOT / "grammar" / "nn.tmLanguage.json").read_text("utf-8"))
SPECS = [
    *sorted((ROOT / "specs").glob("*.nn")),
    *sorted((ROOT / "benchmarks" / "workloads").glob("*.nn")),
]


def rules(patterns: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rules in their order, with what they include."""
    for rule in patterns:
        if "include" in rule:
            yield from rules(GRAMMAR["repository"][rule["include"].removeprefix("#")]["patterns"])
        else:
            yield rule


def scopes(text: str) -> list[str]:
    """The scope of each character, as an editor finds it: of the rules the one that matches first, and of those the first."""
    found = [""] * len(text)
    stack: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [("", list(rules(GRAMMAR["patterns"])), {})]
    start = 0
    for line in text.split("\n"):
        at = 0
        while True:
            end, known, closing = stack[-1]
            candidates = [(re.compile(rule.get("match", rule.get("begin"))).search(line, at), rule) for rule in known]
            if end:
                candidates.insert(0, (re.compile(end).search(line, at), closing))
            matches = [(match.start(), i, match, rule) for i, (match, rule) in enumerate(candidates) if match]
            if not matches:
                break
            _, _, match, rule = min(matches, key=lambda m: m[:2])
            captures = rule.get("captures", rule.get("beginCaptures", {}))
            paint(found, start, match, 0, rule.get("name", ""))
            for group, capture in captures.items():
                paint(found, start, match, int(group), capture.get("name", ""))
            if rule is closing:
                paint(found, start, match, 0, rule["endCaptures"]["0"]["name"])
                stack.pop()
            elif "begin" in rule:
                stack.append((rule["end"], list(rules(rule["patterns"])), {"endCaptures": rule["endCaptures"]}))
            assert match.end() > at or match.end() > match.start(), "a rule that takes nothing would never end"
            at = match.end()
        start += len(line) + 1
    assert len(stack) == 1, "a bracket is open"
    return found


def paint(found: list[str], start: int, match: re.Match[str], group: int, name: str) -> None:
    if name:
        for i in range(match.start(group), match.end(group)):
            found[start + i] = name.removesuffix(".nn")


def wanted(tokens: list[tuple[str, str, int]], index: int, depth: int) -> str:
    """The scope of a token by its neighbours."""
    kind, word, _ = tokens[index]
    before = tokens[index - 1][1] if index else ""
    after = tokens[index + 1][1] if index + 1 < len(tokens) else ""
    if kind in ("STRING", "NUMBER"):
        return {"STRING": "string.quoted.double", "NUMBER": "constant.numeric"}[kind]
    if word in ("->", "+", "-", "*", "/", "//", "="):
        return "keyword.operator"
    if not word[0].isalpha():
        return ""
    if depth and after == "=":
        return "variable.parameter"
    if word in ("true", "false"):
        return "constant.language"
    if word in ("data", "tune", "export") or (word == "train" and after == "{"):
        return "keyword.section"
    if word in RESERVED:
        return "keyword.declaration"
    if before in ("block", "network"):
        return "entity.name.type"
    if before == ":":
        return "storage.type"
    if before == "->" or after == "(":
        return "entity.name.function"
    while not depth and after == "," and tokens[index + 2][0] == "NAME":
        index += 2
        after = tokens[index + 1][1]
    if after in ("=", "in"):
        return "variable.other.definition"
    return "variable.other"


def check(text: str) -> set[str]:
    """Compare every token's scope, and give those that occur."""
    found, tokens, depth, seen = scopes(text), list(tokens_of(text)), 0, set()
    end = 0
    for index, (_, word, start) in enumerate(tokens):
        for comment in re.finditer(r"#[^\n]*", text[end:start]):
            assert set(found[end + comment.start() : end + comment.end()]) == {"comment.line.number-sign"}
        depth += (word == "(") - (word == ")")
        scope = wanted(tokens, index, depth)
        if scope:
            assert set(found[start : start + len(word)]) == {scope}, (text[max(0, start - 30) : start + 30], word)
            seen.add(scope)
        end = start + len(word)
    return seen


def test_the_words_are_those_of_the_grammar() -> None:
    listed = set(re.findall(r'"([a-z]+)"', LARK))
    assert listed == RESERVED, "this pattern finds the words of nn.lark"
    words: set[str] = set()
    for rule in rules(GRAMMAR["patterns"]):
        if rule.get("name", "").startswith(("keyword.declaration", "keyword.section", "constant.language")):
            words |= set(re.search(r"\(\?:([a-z|]+)\)", rule["match"]).group(1).split("|"))
    assert words == listed


def test_numbers_and_strings_are_those_of_the_grammar() -> None:
    for terminal, name in (("NUMBER", "constant.numeric.nn"), ("STRING", "string.quoted.double.nn")):
        real = re.search(rf"^{terminal}: /(.*)/$", LARK, re.MULTILINE).group(1)
        (rule,) = (rule for rule in rules(GRAMMAR["patterns"]) if rule.get("name") == name)
        for text in ("0", "12", "1.5", "1e-3", "2.5E+10", "80%", "1.", ".5", "1e", '""', '"a b"', '"a\\"b"', '"\\\\"', '"open', "x"):
            assert bool(re.fullmatch(real, text)) == bool(re.fullmatch(rule["match"], text)), text


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_spec(path: Path) -> None:
    assert {"keyword.declaration", "keyword.section", "entity.name.function", "variable.parameter", "constant.numeric"} <= check(path.read_text("utf-8"))


def test_every_scope() -> None:
    text = """
let a = 1 # "no string", 2
shared block f(x, rate = 0.5, act = relu(slope=true)) { return x -> act  -> dropout(rate) }
network big(i: float32[2]) { p, q = i -> split(2)  return y = (p + -q * a) // 2 -> f(train=false, "a # b\\" c") }
tune { a in [1, 80%, 1e-3]  objective = minimize(val.loss) }
train
{ stop = early_stopping(monitor=train.loss) }
"""
    seen = check(text.replace("train.loss", "val.loss"))
    assert {"string.quoted.double", "constant.language", "entity.name.type", "storage.type", "variable.other.definition"} <= seen
    assert scopes(text)[text.index("train.loss") + 1] == "variable.other"
