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
    "softplus": "(ZERO if {0} < ZERO else {0}) + np.log1p(exp_{t}(-abs({0})))",
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
    zero, one = ("f32(0.0)", "f32(1.0)") if kind == "float32" else ("0.0", "1.0")  # numba makes float64 of float32 beside an integer
    return TERMS[value.op].format(*operands, t=kind).replace("ZERO", zero).replace("ONE", one)


def loop(kinds: Sequence[tuple[str, str]], lines: Sequence[str], *, two: bool) -> Code:
    """The kernel (addresses.py) of a loop over [outer, inner] whose arrays a0, a1 ... are of the kinds given, and whose body is the lines.

    Its arguments are the lengths of the axes and the arrays' addresses; a part is some of the outer axis.
    """
    numbers, columns, inside = _sorted(lines)
    inside = [line.replace("[AT]", "[i, j]" if two else "[i]") for line in inside]
    arrays = [f"a{number} = nb.carray({_start(number, *kind, two)}, {_shape(kind[0], two)})" for number, kind in enumerate(kinds)]
    body = ["first, last = a[0] * part // parts, a[0] * (part + 1) // parts", "outer, inner = last - first, a[1]", *arrays, *numbers]
    body += ["for i in range(outer):"]
    if two:
        body += [f"    {line}" for line in columns]
        body += ["    for j in range(inner):", *(f"        {line}" for line in inside)]
    else:
        body += [f"    {line}" for line in inside]
    return _compiled(_HEAD + _KERNEL + _indented(body))


SUMS = 4  # rows that are added to in turn: an addition to memory waits for the one just before


def summing_loop(kinds: Sequence[tuple[str, str]], lines: Sequence[str], sums: Sequence[str]) -> Code:
    """A loop that also adds up variables over the outer axis.

    After the arrays follow: in how many runs that axis is cut, and for each variable an array [runs + SUMS parts, inner], of which the first rows are
    the sums of the runs; a part is some of them. Memory that is float32 or bool is either apart or one array (fusion.py), which LLVM is told.
    """
    numbers, columns, inside = _sorted(lines)
    inside = [line.replace("[AT]", "[i, j]") for line in inside]
    at = len(kinds) + 2
    held, given = [f"p{number}" for number in range(len(kinds))], [_start(number, *kind, True) for number, kind in enumerate(kinds)]
    for number in range(len(sums)):
        held += [f"s{number}", f"t{number}"]
        given += [f"float32_at(a[{at + 1 + number}] + 4 * inner * {row})" for row in ("run", f"(a[{at}] + {SUMS} * part)")]
    walk = ["apart()"] if {dtype for _, dtype in kinds} <= {"float32", "bool"} else []
    walk += [f"a{number} = nb.carray(p{number}, {_shape(kind, True)})" for number, (kind, _) in enumerate(kinds)]
    walk += [f"for j in range({SUMS} * inner):", *(f"    t{number}[j] = 0" for number in range(len(sums)))]
    walk += [*numbers, "for i in range(outer):", *(f"    {line}" for line in columns), f"    turn = (i & {SUMS - 1}) * inner", "    for j in range(inner):"]
    walk += [*(f"        {line}" for line in inside), *(f"        t{number}[turn + j] += {name}" for number, name in enumerate(sums))]
    walk += ["for j in range(inner):"]
    walk += [f"    s{n}[j] = (t{n}[j] + t{n}[inner + j]) + (t{n}[2 * inner + j] + t{n}[3 * inner + j])" for n in range(len(sums))]
    body = [f"runs, inner = a[{at}], a[1]", "for run in range(runs * part // parts, runs * (part + 1) // parts):"]
    body += ["    first, last = a[0] * run // runs, a[0] * (run + 1) // runs", f"    walk(last - first, inner, {', '.join(given)})"]
    return _compiled(f"{_HEAD}@compiled()\ndef walk(outer, inner, {', '.join(held)}):\n{_indented(walk)}\n\n{_KERNEL}{_indented(body)}")


def _sorted(lines: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Lines that read a number, those that read a column, and the others."""
    numbers = [line for line in lines if line.endswith("[0]")]
    columns = [line for line in lines if line.endswith("[i]")]
    return numbers, columns, [line for line in lines if line not in numbers and line not in columns]


def _shape(kind: str, two: bool) -> str:
    return {"full": "(outer, inner)" if two else "(outer,)", "row": "(inner,)", "column": "(outer,)", "number": "(1,)"}[kind]


def _start(number: int, kind: str, dtype: str, two: bool) -> str:
    """Where the part's share of an array begins."""
    moved = {"full": f" + first * {_BYTES[dtype]}" + (" * inner" if two else ""), "column": f" + first * {_BYTES[dtype]}"}.get(kind, "")
    return f"{'boolean' if dtype == 'bool' else dtype}_at(a[{number + 2}]{moved})"


def _indented(lines: Sequence[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)


_HEAD = f"""import numba as nb
import numpy as np

from {__package__}.addresses import apart, boolean_at, compiled, float32_at, float64_at, int64_at, kernel
from {__package__}.vector_math import exp_float32, exp_float64, f32, tanh_float32, tanh_float64


"""
_KERNEL = "@kernel\ndef loop(a, part, parts):\n"
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
