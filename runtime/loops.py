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
_KNOWN = frozenset(("float32", "float64", "bool"))

# Terms of the loop, by primitive. A comparison gives a bool.
TERMS: dict[str, str] = {
    "negative": "-{0}",
    "exp": "exp_{t}({0})",
    "tanh": "tanh_{t}({0})",
    "sigmoid": "ONE / (ONE + exp_{t}(-{0}))",
    "sqrt": "np.sqrt({0})",
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


def loop(kinds: Sequence[tuple[str, str]], lines: Sequence[str], *, two: bool) -> Callable[..., Any]:
    """The compiled loop whose parameters a0, a1 ... are of the kinds given, and whose body is the lines."""
    numbers = [line for line in lines if line.endswith("[0]")]
    columns = [line for line in lines if line.endswith("[i]")]
    inside = [line.replace("[AT]", "[i, j]" if two else "[i]") for line in lines if line not in numbers and line not in columns]
    full = next(i for i, (kind, _) in enumerate(kinds) if kind == "full")
    body = [*numbers, f"for i in range(a{full}.shape[0]):"]
    if two:
        body += [f"    {line}" for line in columns]
        body += [f"    for j in range(a{full}.shape[1]):", *(f"        {line}" for line in inside)]
    else:
        body += [f"    {line}" for line in inside]
    types = ", ".join(_type(kind, dtype, two) for kind, dtype in kinds)
    names = ", ".join(f"a{i}" for i in range(len(kinds)))
    text = f'@nb.njit("void({types})", nogil=True, error_model="numpy", cache=True)\ndef loop({names}):\n' + "\n".join(f"    {line}" for line in body) + "\n"
    return compiled(text)


def _type(kind: str, dtype: str, two: bool) -> str:
    name = "boolean" if dtype == "bool" else dtype
    return f"{name}[:, ::1]" if kind == "full" and two else f"{name}[::1]"


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
