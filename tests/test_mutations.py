"""Damaged specs: no exception but SpecError, a place inside the text for every refusal, two seconds at most for each.

The seeds are fixed, so a failure names a text that can be tried again. NNC_MUTATIONS sets how many there are.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnc.compiler.diagnostics import Diagnostic, SpecError, as_dict, render_github, render_text
from nnc.compiler.pipeline import analyse
from nnc.compiler.source import Source

ROOT = Path(__file__).parent
DATA = ROOT / "cases"
SPECS = sorted((ROOT.parent / "specs").glob("*.nn"))
CASES = sorted(DATA.glob("*.nn"))
COUNT = int(os.environ.get("NNC_MUTATIONS", "5000"))
BATCHES = 20
SECONDS = 2.0

TOKEN = re.compile(r'"[^"\n]*"|[A-Za-z_]\w*|[0-9.]+(?:e-?[0-9]+)?%?|->|//|\s+|#[^\n]*|.')
JUNK = [
    "(", ")", "[", "]", "{", "}", "->", "=", ",", ".", "//", "%", '"', "'", "#", ";", "\\", "\0", "\t", "\r", "\ufeff", "ß", "🙂",
    "let", "data", "network", "block", "shared", "return", "in", "true", "train", "export", "tune", "repeat", "-", "--", "1e999",
    "1e-999", "99999999999999999999", "0", "-1", "0.5", "1/0", "[[]]", "()", "{}", "let x = x", "relu", "same", "all", "full", "none",
    '"../../etc/passwd"', '"/etc/passwd"', '"data/people.csv"', '"\\0"', "columns(all)", "-> flatten", "-> repeat(9999, relu)",
    "batch = full", "seed = 1", "float32[1]", "int64", "val.loss", "1/samples",
]  # fmt: skip
NUMBERS = ["0", "1", "2", "-1", "1.5", "80%", "1e308", "1e-320", "3.0", "1000000", "2147483648", "123456789012345678901234567890"]


def mutated(text: str, draw: random.Random) -> str:
    """The text with one to three accidents."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        tokens = TOKEN.findall(text)
        if not tokens:
            return draw.choice(JUNK)
        at = draw.randrange(len(tokens))
        names = [i for i, token in enumerate(tokens) if token[0].isalpha()]
        numbers = [i for i, token in enumerate(tokens) if token[0].isdigit()]
        match draw.randrange(10):
            case 0:
                del tokens[at]
            case 1:
                tokens.insert(at, tokens[at])
            case 2:
                other = draw.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 3 if names:
                tokens[draw.choice(names)] = tokens[draw.choice(names)]
            case 4 if numbers:
                tokens[draw.choice(numbers)] = draw.choice(NUMBERS)
            case 5:
                tokens.insert(at, f" {draw.choice(JUNK)} ")
            case 6:
                return "".join(tokens)[: draw.randrange(len(text) + 1)]
            case 7 if names:
                chosen = draw.choice(names)
                word = tokens[chosen]
                cut = draw.randrange(len(word))
                tokens[chosen] = word[:cut] + draw.choice(["", "x", word[cut] * 2, "_", "."]) + word[cut + 1 :]
            case 8:
                lines = "".join(tokens).split("\n")
                moved = lines.pop(draw.randrange(len(lines)))
                lines.insert(draw.randrange(len(lines) + 1), moved)
                tokens = ["\n".join(lines)]
            case _:
                flat = "".join(tokens)
                place = draw.randrange(len(flat))
                tokens = [flat[:place], chr(draw.choice((draw.randrange(128), draw.randrange(0x3000)))), flat[place + 1 :]]
        text = "".join(tokens)
    return text


def programs() -> list[str]:
    """The specs, and the cases without their expectations: right ones and wrong ones are damaged alike."""
    texts = [path.read_text("utf-8") for path in (*SPECS, *CASES)]
    return [re.sub(r"###[^\n]*|#:[^\n]*", "", text) for text in texts]


def mutations(batch: int) -> Iterator[tuple[int, str]]:
    texts = programs()
    for seed in range(batch, COUNT, BATCHES):
        draw = random.Random(seed)
        yield seed, mutated(draw.choice(texts), draw)


def problem(text: str) -> str:
    """What is wrong with the answer to a text, or nothing."""
    began = time.process_time()
    diagnostics: tuple[Diagnostic, ...] = ()
    try:
        analyse(Source("mutated.nn", text), root=DATA)
    except SpecError as error:
        diagnostics = error.diagnostics
        if not diagnostics:
            return "refused without a reason"
    seconds = time.process_time() - began
    if seconds > SECONDS:
        return f"{seconds:.1f} s"
    for found in diagnostics:
        render_text(found), render_github(found), as_dict(found)
        if found.span is None or found.source is None:
            return f"{found.code} has no place"
        for span in (found.span, *(note.span for note in found.notes)):
            if not 0 <= span.start < span.end <= max(1, len(text)):
                return f"{found.code} points at {span} of {len(text)} characters"
        if not found.help:
            return f"{found.code} offers no way out"
    return ""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all files that were opened."""
    paths: list[str] = []
    true_open = io.open

    def watched(file: object, *args: object, **options: object) -> object:
        paths.append(str(file))
        return true_open(file, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr(io, "open", watched)
    return paths


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_damaged_spec_is_refused_or_understood(batch: int, opened: list[str]) -> None:
    for seed, text in mutations(batch):
        found = problem(text)
        assert not found, f"seed {seed}: {found}\n{text}"
    below = [path for path in opened if path.endswith((".csv", ".gz", ".npz", ".npy")) or "etc" in path]
    assert all(Path(path).resolve().is_relative_to(DATA.resolve()) for path in below), below


def test_the_harness_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow, a placeless and a helpless answer are found."""
    assert problem("network(x: float32[4]) { return y = x -> desne(3) }") == ""
    monkeypatch.setitem(globals(), "SECONDS", -1.0)
    assert problem("let a = 3").endswith(" s")
    monkeypatch.setitem(globals(), "SECONDS", 2.0)
    monkeypatch.setattr("nnc.compiler.resolve.did_you_mean", lambda name, known: "")
    assert "no way out" in problem("network(x: float32[4]) { return y = x -> dense(3, unit=4) }")
