"""Loops compiled by numba, for the fast engine: a text for each kind of loop, compiled once and kept on disk.

A loop's text speaks of shapes and places no more than needed, so that layers of one kind share it. It begins with the functions that it
calls (vector_math.py), so that numba keeps both together.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.ir import Value

from .files import write_text

on_compiling: list[Callable[[], None]] = []  # called once, before the first loop is compiled that is not kept yet
_KNOWN = frozenset(("float32", "float64", "bool", "int64"))

# Terms of the loop, by primitive. A comparison gives a bool.
TERMS: dict[str, str] = {
    "negative": "-{0}",
    "exp": "exp_{t}({0})",
    "tanh": "tanh_{t}({0})",
    "sigmoid": "ONE / (ONE + exp_{t}(-{0}))",
    "sqrt": "np.sqrt({0})",
    "log": "np.log({0})",
    "log1p": "np.log1p({0})",
    "expm1": "np.expm1({0})",
    "softplus": "({0} if {0} > 0 else {0} * 0) + np.log1p(exp_{t}(-abs({0})))",
    "floor": "np.floor({0})",
    "sign": "np.sign({0})",
    "is_nan": "{0} != {0}",
    "absolute": "abs({0})",
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    # NaN stays NaN, as NumPy has it.
    "maximum": "{0} if ({0} >= {1} or {0} != {0}) else {1}",
    "minimum": "{0} if ({0} <= {1} or {0} != {0}) else {1}",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "equal": "{0} == {1}",
    "where": "{1} if {0} else {2}",
    "cast": "",
}


def knows(dtype: np.dtype[Any]) -> bool:
    return dtype.name in _KNOWN


def term(value: Value, operands: Sequence[str]) -> str:
    """The expression of a step in a loop."""
    if value.op == "cast":
        kind = value.dtype
        return f"{operands[0]}" if kind == value.operands[0].dtype else f"np.{kind}({operands[0]})" if kind != "bool" else f"{operands[0]} != 0"
    kind = value.dtype if value.dtype != "bool" else value.operands[-1].dtype
    one = "f32(1.0)" if kind == "float32" else "1.0"
    return TERMS[value.op].format(*operands, t=kind).replace("ONE", one)


def loop(kinds: Sequence[tuple[str, str]], lines: Sequence[str], *, two: bool) -> Any:
    """The kernel (addresses.py) of a loop over [outer, inner] whose arrays a0, a1 ... are of the kinds given, and whose body is the lines.

    Its arguments are the lengths of the axes and the arrays' addresses; a part is some of the outer axis.
    """
    numbers = [line for line in lines if line.endswith("[0]")]
    columns = [line for line in lines if line.endswith("[i]")]
    inside = [line.replace("[AT]", "[i, j]" if two else "[i]") for line in lines if line not in numbers and line not in columns]
    arrays = []
    for number, (kind, dtype) in enumerate(kinds):
        start = f"a[{number + 2}] + first * {_BYTES[dtype]}" + (" * inner" if two else "") if kind == "full" else f"a[{number + 2}]"
        start += f" + first * {_BYTES[dtype]}" if kind == "column" else ""
        shape = {"full": "(outer, inner)" if two else "(outer,)", "row": "(inner,)", "column": "(outer,)", "number": "(1,)"}[kind]
        arrays.append(f"a{number} = nb.carray({'boolean' if dtype == 'bool' else dtype}_at({start}), {shape})")
    body = ["first, last = a[0] * part // parts, a[0] * (part + 1) // parts", "outer, inner = last - first, a[1]", *arrays, *numbers, "for i in range(outer):"]
    if two:
        body += [f"    {line}" for line in columns]
        body += ["    for j in range(inner):", *(f"        {line}" for line in inside)]
    else:
        body += [f"    {line}" for line in inside]
    head = "from nnc.runtime.addresses import boolean_at, float32_at, float64_at, int64_at, kernel\n\n\n@kernel\ndef loop(a, part, parts):\n"
    return compiled(head + "\n".join(f"    {line}" for line in body) + "\n")


_BYTES = {"float32": 4, "float64": 8, "bool": 1, "int64": 8}


def folder() -> Path:
    """Where compiled loops are kept: NNC_CACHE, or the user's cache."""
    given = os.environ.get("NNC_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nnc" / "loops"


@cache
def numba() -> Any:
    """numba, with LLVM told to check as many arrays for overlap as a loop has: else it gives up on long ones."""
    import llvmlite.binding as llvm
    import numba as package

    llvm.set_option("nnc", "--runtime-memory-check-threshold=512")
    return package


@cache
def compiled(text: str) -> Callable[..., Any]:
    text = Path(__file__).with_name("vector_math.py").read_text(encoding="utf-8") + "\n\n" + text
    key = hashlib.sha256(f"{numba().__version__} {np.__version__} {sys.version} {text}".encode()).hexdigest()[:24]
    path = folder() / f"loop_{key}.py"
    if not any((path.parent / "__pycache__").glob(f"{path.stem}*.nbi")):
        _announced()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    spec = importlib.util.spec_from_file_location(f"nnc_loop_{key}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # numba looks for it there when it loads what it has kept
    spec.loader.exec_module(module)
    made: Callable[..., Any] = module.loop
    return made


@cache
def _announced() -> None:
    for listener in on_compiling:
        listener()
