"""Columns of numbers whose rows come block by block, written where they stay: joining blocks at the end would fill as much memory again."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_SPARE = 1.02  # rows that there may be beside those expected; memory that is not written to is not taken


class Growing:
    """float64 columns of one length by name."""

    def __init__(self, names: Collection[str]):
        self._arrays = {name: np.empty(0) for name in names}
        self._rows = 0

    def more(self, rows: int, expected: int) -> dict[str, Array]:
        """Where the next rows of each column are written. `expected` is a guess at all rows together."""
        begin, self._rows = self._rows, self._rows + rows
        for name, array in self._arrays.items():
            if len(array) < self._rows:
                self._arrays[name] = larger = np.empty(max(self._rows, int(_SPARE * expected), len(array) * 3 // 2))
                larger[:begin] = array[:begin]
        return {name: array[begin : self._rows] for name, array in self._arrays.items()}

    def columns(self) -> dict[str, Array]:
        """The rows so far, each column [rows, 1]."""
        return {name: array[: self._rows].reshape(-1, 1) for name, array in self._arrays.items()}
