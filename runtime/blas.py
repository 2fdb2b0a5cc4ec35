"""NumPy's own matrix product, for compiled kernels: the address of its BLAS's sgemm, under a name that compiled code can keep.

NumPy's OpenBLAS exports cblas under names of its own, with 64-bit sizes. Where it does not (another BLAS), there is no product to call from
inside, and kernels that want one are not used.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from .machine_code import numba
from .threads import blas_libraries

_NAME = "nnc_sgemm"
ROWS, PLAIN, TURNED = 101, 111, 112  # cblas's words for row order, a matrix as it is, and transposed


@cache
def has_product() -> bool:
    """Whether compiled code can call the product; gives LLVM its address."""
    import llvmlite.binding as llvm

    for library in blas_libraries():
        function = getattr(ctypes.CDLL(library.filepath), "scipy_cblas_sgemm64_", None)
        if function is not None:
            llvm.add_symbol(_NAME, ctypes.cast(function, ctypes.c_void_p).value)
            return True
    return False


def sgemm() -> Any:
    """sgemm(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) for compiled code."""
    types = numba().types
    i, n, f, p = types.int32, types.int64, types.float32, types.CPointer(types.float32)
    return types.ExternalFunction(_NAME, types.void(i, i, i, n, n, n, f, p, n, p, n, f, p, n))
