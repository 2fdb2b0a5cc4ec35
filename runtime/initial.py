"""What parameters start from: draws that are fixed by the seed and a parameter's name, and arrays of files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Findings, Refusal
from nnc.compiler.lower import Parameter
from nnc.compiler.operation import Draw
from nnc.compiler.program import Program
from nnc.compiler.schema import Files
from nnc.compiler.source import Source

from .files import digest_of, read_any_arrays
from .kernels import generator

Array = np.ndarray[Any, Any]


def weight_files(program: Program, root: Path) -> dict[str, str]:
    """The files under the root that weights start from, with their SHA-256."""
    names = {p.draw.file for p in program.inference.parameters.values() if p.draw.file}
    if program.train is not None and program.train.start is not None:
        names.add(program.train.start.params.file)
    return {name: digest_of(root / name) for name in sorted(names) if (root / name).is_file()}


def fill(variables: Mapping[str, Array], parameters: Iterable[Parameter], seed: int, source: Source, root: Path | None) -> None:
    """Fill the parameters' arrays. Files are looked for under `root`; without one their arrays stay at zero. E512 for what does not fit."""
    findings = Findings(source)
    for p in parameters:
        if p.draw.distribution != "file":
            variables[p.name][...] = drawn(p.draw, p.shape, seed, p.name)
        elif root is not None:
            try:
                variables[p.name][...] = _taken(p.draw, p.shape, root)
            except Refusal as refusal:
                findings.add_refusal(refusal, p.span)
            except ValueError as error:
                findings.add("E512", p.span, str(error), file=p.draw.file, help=f"give a file and the name of an array of {list(p.shape)} in it")
    findings.stop_on_errors()


def _taken(draw: Draw, shape: tuple[int, ...], root: Path) -> Array:
    """The array of a file; ValueError says why it is none of the parameter's."""
    arrays = read_any_arrays(Files(root).path(draw.file))
    if draw.name not in arrays:
        raise ValueError(f"it has no `{draw.name}`")
    array = arrays[draw.name]
    if array.shape != shape:
        raise ValueError(f"`{draw.name}` is {list(array.shape)} there, {list(shape)} here")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"`{draw.name}` holds other things than finite numbers")
    return array


def drawn(draw: Draw, shape: tuple[int, ...], seed: int, name: str) -> Array:
    """The initial values of a parameter, fixed by the seed and its name."""
    random = generator(seed, f"init/{name}")
    match draw.distribution:
        case "normal":
            return random.normal(draw.a, draw.b, shape)
        case "uniform":
            return random.uniform(draw.a, draw.b, shape)
        case "truncated_normal":
            return _truncated(random, draw, shape)
        case "orthogonal":
            return draw.a * _orthogonal(random, shape)
        case "mask":
            return (generator(int(draw.b), f"mask/{name}").random(shape) < draw.a).astype(np.float64)
        case "ahead":
            return np.triu(np.full(shape, -1e9), 1)
    return np.full(shape, draw.a)


def _truncated(random: np.random.Generator, draw: Draw, shape: tuple[int, ...]) -> Array:
    """Normal numbers, those beyond two standard deviations drawn again."""
    found = random.standard_normal(shape)
    while (outside := np.abs(found) > 2).any():
        found[outside] = random.standard_normal(int(outside.sum()))
    return draw.a + draw.b * found


def _orthogonal(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Orthonormal rows or columns, whichever are fewer, of [first axis, all others]; uniform over such matrices."""
    rows, columns = shape[0], prod(shape[1:])
    q, r = np.linalg.qr(random.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return (q if rows >= columns else q.T).reshape(shape)
