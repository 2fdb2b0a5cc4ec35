"""Three hundred random networks against torch, finite differences and onnxruntime.

drawing.py draws them, random_networks.py says how they are compared, and compares any number by command.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from drawing import draw, network

from nnc.compiler.operation import Kind, names

SEEDS = range(300)


def test_the_networks_have_every_feature() -> None:
    drawn = [draw(seed) for seed in SEEDS]
    assert {len(network.inputs) for network in drawn} == {len(network.results) for network in drawn} == {1, 2, 3}
    features = ("shared block", "\nblock", "repeat(", "act = ", "act=", "units = ", "penalty=", "bias=false", "int64", ", y1 = ", " + ", " / ")
    assert not [feature for feature in features if not any(feature in network.text for network in drawn)]
    assert sum(network.noisy for network in drawn) > 20


def test_what_is_compared_covers_the_table() -> None:
    """Every word for a layer, an activation, a loss or a penalty stands in one of the networks that are compared."""
    missing = {(kind, name) for kind in (Kind.LAYER, Kind.LOSS, Kind.PENALTY) for name in names(kind)}
    for seed in SEEDS:
        drawn, _, _ = network(seed)
        missing -= {(Kind.LAYER, layer.word) for layer in drawn.layers()}
        missing -= {(Kind.LOSS, term.loss.word) for term in drawn.loss}
        missing -= {(Kind.PENALTY, penalty.term.word) for penalty in drawn.penalty}
        if not missing:
            break
    assert not missing


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_network_is_what_other_libraries_make_of_it(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is the outside reference of this test and is not installed")
    from random_networks import check

    check(seed, tmp_path)
