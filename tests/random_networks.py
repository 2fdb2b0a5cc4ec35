"""Random networks against other libraries: `python tests/random_networks.py 5000 --seed 3` draws and checks that many.

Each is computed in float64: outputs, loss, gradients and one step of gradient descent against torch, which interprets what was drawn
(oracles/torch_network.py); where noise acts, gradients against finite differences instead. Its exported file is run by onnxruntime.

No NaN and no kink spoils the comparison, because such networks are drawn again: parameters and batch are taken only where no slope jumps
within KINK (comparisons, absolute values and maxima are followed through the graph), where the objective is finite and not LARGE, and where
probabilities keep away from 0 and 1, whose logarithms torch would have to take of rounded numbers. What float32 may differ by in the
exported file is measured by torch in float32; a network in which that is much is compared no closer, and no network in which a step
stands next to its threshold is compared with onnxruntime.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import KINK, ROWS, network
from drawn import Drawn
from networks import Array, check_gradients
from oracles import torch_network
from oracles.torch_reference import tensor, tensors

import nnc


def close(found: Any, wanted: torch.Tensor, what: str, largest: float | None = None) -> None:
    reference = wanted.detach().numpy()
    size = float(np.abs(reference).max(initial=0.0)) if largest is None else largest
    np.testing.assert_allclose(found, reference, rtol=1e-9, atol=1e-9 * max(size, 1e-3), err_msg=what)


def check_torch(drawn: Drawn, model: Any, batch: Mapping[str, Array]) -> None:
    """Outputs and loss in inference; the objective, every gradient and everything that a step changes in training, unless noise acts."""
    given = {name: tensor(array) for name, array in batch.items()}
    p = tensors(model.parameters)
    outputs = torch_network.Network(drawn, p, training=False).outputs(given)
    found = model.predict(batch)
    assert list(found) == list(outputs)
    for name, wanted in outputs.items():
        close(found[name], wanted, name)
    close(model.loss(batch), torch_network.loss(drawn, outputs, given), "loss")
    if drawn.noisy:
        return
    run = torch_network.Network(drawn, p, training=True)
    wanted = torch_network.loss(drawn, run.outputs(given), given) + torch_network.penalties(run)
    wanted.backward()
    objective, gradients = model.gradients(batch)
    close(objective, wanted, "objective")
    slopes = {name: t.grad if t.grad is not None else torch.zeros_like(t) for name, t in p.items() if t.requires_grad}
    assert gradients.keys() == p.keys()
    largest = max(float(slope.abs().max()) for slope in slopes.values())
    for name, slope in slopes.items():
        close(gradients[name], slope, f"gradient of {name}", largest)
    assert model.step(batch) == objective
    for name, t in p.items():
        close(model.parameters[name], t - 0.01 * slopes[name] if name in slopes else t, f"{name} after a step")


def check_export(drawn: Drawn, model: Any, batch: Mapping[str, Array], path: Path) -> None:
    """The file in onnxruntime, at several batch sizes, against `predict`, as far as float32 lets torch follow as well."""
    import onnxruntime

    inputs = {given.name: batch[given.name] for given in drawn.inputs}
    exact = torch_network.Network(drawn, tensors(model.parameters), training=False)
    wanted = exact.outputs({name: tensor(array) for name, array in inputs.items()})
    if exact.closest < KINK:
        return
    with torch.no_grad():
        single = {name: t.detach().float() for name, t in tensors(model.parameters).items()}
        given = {name: tensor(array) if array.dtype.kind == "i" else tensor(array).float() for name, array in inputs.items()}
        rounded = torch_network.Network(drawn, single, training=False).outputs(given)
    model.export_onnx(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    fed = {name: array if array.dtype.kind == "i" else array.astype(np.float32) for name, array in inputs.items()}
    for size in (1, ROWS):
        got = session.run(None, {name: array[:size] for name, array in fed.items()})
        for (name, reference), result in zip(wanted.items(), got, strict=True):
            reference = reference.detach().numpy()
            error = float(np.abs(rounded[name].numpy() - reference).max())
            np.testing.assert_allclose(result, reference[:size], rtol=1e-4, atol=1e-5 + 20 * error, err_msg=f"exported {name}")


def check(seed: int, folder: Path) -> Drawn:
    """Everything about the network of one seed."""
    drawn, model, batch = network(seed)
    if drawn.noisy:
        check_gradients(model, batch)
    check_torch(drawn, model, batch)
    check_export(drawn, model, batch, folder / f"{seed}.onnx")
    return drawn


def checked(seed: int) -> str:
    """What is wrong with the network of a seed, or nothing."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            check(seed, Path(folder))
    except (AssertionError, nnc.SpecError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
        return traceback.format_exc(limit=-6)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    began, failed = time.monotonic(), 0
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting = {pool.submit(checked, seed): seed for seed in range(options.seed, options.seed + options.count)}
        for done in as_completed(waiting):
            if said := done.result():
                failed += 1
                print(f"seed {waiting[done]}\n{said}", flush=True)
    print(f"{options.count} networks, {failed} wrong, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
