"""The limit on memory: what is told of a step without making it is never less than what the step's plan needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from networks import around, spec, word
from test_operations import LAYERS

from nnc.compiler import pipeline, program
from nnc.compiler.operation import Kind, find, names
from nnc.compiler.source import Source

ROOT = Path(__file__).parent.parent


def networks() -> Iterator[str]:
    """Specs of every layer, optimiser and loss, and those that ship."""
    yield from (spec(around(layer, shape)) for layer, shape in LAYERS)
    dense = around(word("dense", units=20), (30,))
    for optimizer in names(Kind.OPTIMISER):
        if "solver" not in find(Kind.OPTIMISER, optimizer).facts:  # type: ignore[union-attr]
            yield spec(dense, optimizer=f"{optimizer}(lr=0.1)")
            yield spec(dense, optimizer=f"{optimizer}(lr=0.1)", penalty="l2(0.1) + l1(0.1)", clip="norm(1)")
    for loss in names(Kind.LOSS):
        yield spec(around(word("dense", units=20), (30,), tail=" -> softmax"), loss=f"{loss}(output, y)")
    yield (ROOT / "benchmarks/workloads/vgg-s.nn").read_text()


def test_a_step_takes_no_more_than_its_forward_pass_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured with a fourth of what is assumed for values, and a sixteenth for tiles."""
    monkeypatch.setattr(pipeline, "_check_budget", lambda *given: None)
    monkeypatch.setattr(program, "_TIMES_FORWARD", program._TIMES_FORWARD // 4)
    monkeypatch.setattr(program, "_TILES", program._TILES // 16)
    texts = [*networks()]
    for text in texts:
        made = pipeline.analyse(Source("budget", text), root=None)
        for n in (1, 64, 1000):
            for fast in (False, True):
                needed = made.training_bytes(n, fast)
                assert not made.surely_trains_in(needed, n), f"{needed:,} bytes of {text}"
                assert made.surely_trains_in(1000 * needed + 2 * program._TILES, n)
    assert len(texts) > 150


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_of_a_solver_nothing_is_told(optimizer: str) -> None:
    text = "network(x: float32[3]) { return y = x -> dense(2) }\n"
    text += 'data { source = table(a=[1, 2], b=[1, 2], c=[1, 2], d=[1, 3], e=[1, 3])  x = columns(a, b, c)  t = columns(d, e) }\n'
    text += f"train {{ loss = mse(y, t)  optimizer = {optimizer}  batch = full  epochs = 1 }}"
    made = pipeline.analyse(Source("solver", text), root=ROOT)
    assert not made.surely_trains_in(2**60, 2)
