"""A model's parameters as a mapping: what is assigned is checked and copied into the model's own memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Parameters(MutableMapping[str, Array]):
    """Parameters by name. Assignment copies into the model's own memory; shape and finite values are checked."""

    def __init__(self, variables: Mapping[str, Array], names: Collection[str]):
        self._variables, self._names = variables, names

    def __getitem__(self, name: str) -> Array:
        return self._variables[name] if name in self._names else self._missing(name)

    def __setitem__(self, name: str, array: Any) -> None:
        own = self[name]
        given = np.asarray(array)
        if given.shape != own.shape:
            raise ValueError(f"{name} has the shape {own.shape}, not {given.shape}")
        if given.dtype.kind not in "fiub":
            raise ValueError(f"{name} holds numbers, not {given.dtype}")
        with np.errstate(over="ignore"):
            cast = given.astype(own.dtype)
        if not np.isfinite(cast).all():
            raise ValueError(f"{name} would hold NaN or infinity")
        own[...] = cast

    def __delitem__(self, name: str) -> None:
        raise TypeError("a model keeps all its parameters")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name!r}: {self[name].dtype}{list(self[name].shape)}' for name in self)}}}"

    def _missing(self, name: str) -> Array:
        raise KeyError(f"no parameter is called {name!r}; there are {', '.join(self)}")
