"""Loops of elementwise steps, for the fast engine: a text for each kind of loop, compiled once and kept on disk.

A loop's text speaks of shapes and places no more than needed, so that layers of one kind share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from nnc.compiler.ir import Value

from .machine_code import Code, Definition, text_of

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


def loop(kinds: Sequence[tuple[str, str]], lines: Sequence[str], *, two: bool, sums: Sequence[str] = ()) -> Code:
    """The kernel (addresses.py) of a loop over [outer, inner] whose arrays a0, a1 ... are of the kinds given, and whose body is the lines.

    Its arguments are the lengths of the axes and the arrays' addresses; a part is some of the outer axis. With `sums`, variables that are added up
    over the outer axis, these follow: in how many runs that axis is cut, and for each variable an array [runs, inner]; a part is some of the runs.
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
    at = len(kinds) + 2
    totals = [f"s{number} = nb.carray(float32_at(a[{at + 1 + number}] + run * inner * 4), (inner,))" for number in range(len(sums))]
    clear = [f"s{number}[...] = 0" for number in range(len(sums))]
    inside += [f"s{number}[j] += {name}" for number, name in enumerate(sums)]
    body = ["outer, inner = last - first, a[1]", *arrays, *totals, *clear, *numbers, "for i in range(outer):"]
    if two:
        body += [f"    {line}" for line in columns]
        body += ["    for j in range(inner):", *(f"        {line}" for line in inside)]
    else:
        body += [f"    {line}" for line in inside]
    if sums:
        cut = f"for run in range(a[{at}] * part // parts, a[{at}] * (part + 1) // parts):"
        body = [f"first, last = a[0] * run // a[{at}], a[0] * (run + 1) // a[{at}]", *body]
        body = [cut, *(f"    {line}" for line in body)]
    else:
        body = ["first, last = a[0] * part // parts, a[0] * (part + 1) // parts", *body]
    return _compiled(_HEAD + "\n".join(f"    {line}" for line in body) + "\n")


_HEAD = f"""import numba as nb
import numpy as np

from {__package__}.addresses import boolean_at, float32_at, float64_at, int64_at, kernel
from {__package__}.vector_math import exp_float32, exp_float64, f32, tanh_float32, tanh_float64


@kernel
def loop(a, part, parts):
"""
_BYTES = {"float32": 4, "float64": 8, "bool": 1, "int64": 8}


@cache
def _compiled(text: str) -> Code:
    """The kernel `loop` of a text; equal texts are one."""
    return Code(text + text_of("addresses") + text_of("vector_math"), "loop", lambda: _defined(text))


def _defined(text: str) -> Definition:
    space: dict[str, Any] = {"__name__": f"{__package__}.generated"}
    exec(compile(text, "<loop>", "exec"), space)  # the text is this module's own
    definition: Definition = space["loop"]
    return definition
