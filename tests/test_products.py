"""The fast engine's own matrix product: every size of tile and panel, however its operands lie, and the same bits however it is divided."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="the fast engine's numba is not installed")

from nnc.runtime.machine_code import Codes
from nnc.runtime.native import PANEL

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNC_CACHE", str(tmp_path_factory.mktemp("code")))
        yield


kernel = Codes("products").product


def framed(array: Array) -> Array:
    """The same numbers with NaN behind every row and after the last."""
    wider = np.full((len(array) + 1, array.shape[1] + 3), np.nan, np.float32)
    wider[:-1, :-3] = array
    return wider[:-1, :-3]


def product(a: Array, b: Array, turned: tuple[bool, bool], parts: int) -> Array:
    """a b by the kernel, part after part; nothing is written outside of it."""
    (m, k), n = a.shape[:: -1 if turned[0] else 1], b.shape[0 if turned[1] else 1]
    a, b, out = framed(a), framed(b), np.full((m + 1, n + 5), np.inf, np.float32)
    room = np.empty(parts * PANEL + 16, np.float32)
    panels = room.ctypes.data + -room.ctypes.data % 64
    rows = (x.strides[0] // 4 for x in (a, b, out))
    places = (x.ctypes.data for x in (a, b, out))
    pairs = [number for pair in zip(places, rows, strict=True) for number in pair]
    arguments = np.array([*turned, m, n, k, *pairs, panels, PANEL], np.int64)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(kernel.address)
    for part in range(parts):
        function(arguments.ctypes.data, part, parts)
    assert np.isinf(out[m]).all()
    assert np.isinf(out[:, n:]).all()
    return out[:m, :n].copy()


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("n", [1, 16, 30, 47, 63, 64, 65, 200])
def test_it_is_the_product_and_divided_the_same_bits(n: int, turned: tuple[bool, bool]) -> None:
    random = np.random.default_rng(n)
    for m in (1, 2, 5, 6, 7, 8, 11, 13, 40):
        for k in (1, 15, 16, 17, 256, 257, 600):
            a, b = random.normal(size=(m, k)).astype(np.float32), random.normal(size=(k, n)).astype(np.float32)
            given = a.T if turned[0] else a, b.T if turned[1] else b
            found = product(*given, turned, 1)
            exact, terms = a.astype(float) @ b, abs(a).astype(float) @ abs(b)
            assert (abs(found - exact) <= 1e-6 * terms).all(), (m, k)
            for parts in (2, 3, 4):
                np.testing.assert_array_equal(product(*given, turned, parts), found)


def test_what_is_not_a_number_stays_in_its_row_and_column() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(50, 300)).astype(np.float32), random.normal(size=(300, 130)).astype(np.float32)
    a[17, 5], b[280, 129] = np.nan, np.inf
    found = product(a, b, (False, False), 2)
    wrong = ~np.isfinite(found)
    assert wrong[17].all()
    assert wrong[:, 129].all()
    assert wrong.sum() == 130 + 50 - 1
