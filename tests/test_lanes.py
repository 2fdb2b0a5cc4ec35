"""NumPy's lanes: in any order, on any number of threads, they give the bits of the steps one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nnc
from nnc.runtime import lanes, threads
from nnc.runtime.executor import Call, Program

NETWORKS = {
    "normalised": "return class = x -> conv2d(8, kernel=3, padding=same) -> batch_norm -> relu -> max_pool(2) -> conv2d(6, kernel=3) -> gelu -> flatten",
    "strided": "return class = x -> conv2d(8, kernel=3, stride=2) -> tanh -> conv2d(4, kernel=3, stride=2, padding=same) -> max_pool(3, stride=1) -> flatten",
    "by groups": "h = x -> conv2d(6, kernel=1) -> conv2d(6, kernel=3, groups=6, padding=same) -> relu -> avg_pool(2)\n"
    "  return class = h -> conv2d(4, kernel=3, groups=2) -> flatten",
    "kept and dropped": "h = x -> conv2d(4, kernel=3, padding=same) -> dropout(0.3)\n"
    "  return class = add(h, h -> conv2d(4, kernel=3, padding=same) -> layer_norm) -> global_avg_pool",
    "recurrent": "return class = x -> reshape([12, 22]) -> lstm(6)",
}
IMAGES = [name for name in NETWORKS if name != "recurrent"]
SPEC = """
network(x: float32[2, 12, 11]) {{
  {layers} -> dense(3) -> softmax
}}

train {{
  loss      = cross_entropy(class, label)
  optimizer = adam(lr=0.01)
  batch     = 7
  epochs    = 1
}}
"""


def compiled(network: str) -> Any:
    return nnc.compile(SPEC.format(layers=NETWORKS[network])).init(seed=3)


def fill(program: Program) -> None:
    rng = np.random.default_rng(4)
    for array in program.inputs.values():
        array[...] = rng.integers(0, 3, array.shape) if array.dtype.kind in "iu" else rng.standard_normal(array.shape)


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes for whatever can be divided."""
    monkeypatch.setattr(lanes, "WORTH_DIVIDING", 1)
    monkeypatch.setattr(lanes, "WORTH_SHARING", 0)


def backwards(calls: list[Call]) -> None:
    """The last lane first, and each to its end before the next."""
    for call, given in calls:
        if call is threads.for_each:
            count, body = given
            for lane in reversed(range(count)):
                body(lane)
        else:
            call(*given)


def in_order(calls: list[Call]) -> None:
    for call, given in calls:
        call(*given)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("n", [7, 3, 1])
@pytest.mark.parametrize("network", IMAGES)
def test_lanes_may_run_in_any_order(network: str, n: int) -> None:
    found = []
    for run, whole in ((in_order, True), (backwards, False)):
        model = compiled(network)
        program = model.step_program(n)
        fill(program)
        with np.errstate(all="ignore"):
            run(program.steps[: program.plan.forward] if whole else program.forward_steps)
        found.append({name: array.copy() for name, array in program.outputs.items()})
        if not whole and n > 1:
            shared = [given for call, given in program.forward_steps if call is threads.for_each]
            assert shared
            assert len(shared) < sum(value.primitive.elementwise or value.op.startswith(("conv2d", "max_pool", "avg_pool")) for value in program.plan.steps)
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array, err_msg=name)


@pytest.mark.usefixtures("everywhere")
def test_without_images_the_blas_keeps_its_threads() -> None:
    """Products are most of the work there, and one region in lanes would have the whole step on one thread of the BLAS."""
    model = compiled("recurrent")
    program = model.step_program(7)
    fill(program)
    seen = []
    with threads.with_threads(2):
        program.forward([(lambda: seen.append(threads.held()), ()), *program.forward_steps])
    assert seen == [False]
    assert all(call is not threads.for_each for call, _ in program.forward_steps)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("network", IMAGES)
def test_any_number_of_threads_gives_the_same_bits(network: str) -> None:
    states = []
    for count in (1, 2, 3):
        with threads.with_threads(count):
            model = compiled(network)
            for _ in range(3):
                program = model.step_program(7)
                fill(program)
                model.advance(program)
            states.append({name: array.copy() for name, array in model.variables.items()})
    for other in states[1:]:
        for name, array in states[0].items():
            np.testing.assert_array_equal(other[name], array, err_msg=name)


def meeting(count: int) -> Callable[[int], None]:
    """A body whose lanes wait for each other."""
    barrier = threading.Barrier(count, timeout=20)
    return lambda lane: barrier.wait() and None


def test_lanes_run_at_the_same_time() -> None:
    with threads.with_threads(3):
        if threads.workers() < 3:
            pytest.skip("the BLAS takes fewer than three threads here")
        threads.for_each(3, meeting(3))
        threads.for_each(3, meeting(3))


def test_what_goes_wrong_in_a_lane_is_raised_when_all_are_done() -> None:
    done = []

    def body(lane: int) -> None:
        if lane == 0:
            raise KeyError("lane 0")
        time.sleep(0.01)
        done.append(lane)

    for count in (1, 2, 3):
        done.clear()
        with threads.with_threads(count), pytest.raises(KeyError, match="lane 0"):
            threads.for_each(4, body)
        assert count == 1 or sorted(done) == [1, 2, 3]
        with threads.with_threads(count):
            threads.for_each(4, done.append)  # the pool goes on


def test_a_pool_in_use_lets_others_work_by_themselves() -> None:
    found: list[int] = []
    threads.for_each(2, lambda lane: threads.for_each(2, found.append))
    assert sorted(found) == [0, 0, 1, 1]
