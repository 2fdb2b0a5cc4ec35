"""Cells of a column of text, a block at a time. Equal texts are one object, as far as there are not too many.

A text of up to 64 bytes is compared as words of eight bytes, filled up with zeros. Where a column has few distinct texts, they are kept
with their words under a number that is made of these, so that a cell which has occurred is found again without becoming a string.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decimals import words_of

Array = np.ndarray[Any, Any]
_WIDEST = 64  # bytes of a text that is compared by words; decimals.PADDING lets so many be looked at
_KNOWN = 10_000  # texts that are remembered, so that equal ones are one object
_FEW = 200  # texts whose words are kept
_BITS = 16
_TRIES = 50
_MIX = np.random.default_rng(0).integers(0, 1 << 64, (_TRIES, _WIDEST // 8), np.uint64) | np.uint64(1)


@dataclass(frozen=True)
class _Kept:
    """Texts by their words. `place` gives the number of the one text that a cell can be."""

    words: Array  # [texts, 8]
    texts: Array
    mix: Array
    place: Array

    def find(self, words: Array) -> tuple[Array, Array]:
        """For each row of words the text that it may be, and whether it is."""
        which = self.place.take(_slots(words, self.mix))
        same = np.ones(len(words), bool)
        for here, known in zip(words.T, self.words.T, strict=False):
            same &= known.take(which) == here
        for known in self.words.T[words.shape[1] :]:
            if known.any():
                same &= known.take(which) == 0
        return which, same


def _slots(words: Array, mix: Array) -> Array:
    key = words[:, 0] * mix[0]
    for place in range(1, words.shape[1]):
        key += words[:, place] * mix[place]
    key >>= np.uint64(64 - _BITS)
    slots: Array = key.view(np.int64)
    return slots


def _kept(words: Array, texts: Array) -> _Kept | None:
    """None where no way to mix them keeps them apart."""
    for mix in _MIX:
        slots = _slots(words, mix)
        if len(np.unique(slots)) == len(slots):
            place = np.zeros(1 << _BITS, np.uint8)
            place[slots] = np.arange(len(slots))
            return _Kept(np.asfortranarray(words), texts, mix, place)
    return None


class Texts:
    """The texts of a column; those in `gone` are "". Several threads may ask."""

    def __init__(self, gone: Collection[str]):
        self.gone = gone
        self.known: dict[str, str] = {}
        self.kept: _Kept | None = None

    def of(self, cells: list[str]) -> Array:
        return _objects([self._text(cell) for cell in cells])

    def _text(self, cell: str) -> str:
        stripped = cell.strip()
        if stripped in self.gone:
            return ""
        return self.known.setdefault(stripped, stripped) if len(self.known) < _KNOWN else self.known.get(stripped, stripped)

    def of_bytes(self, text: Array, starts: Array, ends: Array) -> Array | None:
        """The cells between `starts` and `ends`, which are ASCII without zeros; None where one is too long to be compared by words."""
        words = _words(text, starts, ends)
        if words is None:
            return None
        kept = self.kept
        if kept is not None:
            which, same = kept.find(words)
            if same.all():
                found: Array = kept.texts[which]
                return found
            new = np.flatnonzero(~same)
            if 2 * len(new) < len(words):
                found = kept.texts[which]
                found[new] = self._distinct(words[new], text, starts[new], ends[new])
                return found
        return self._distinct(words, text, starts, ends)

    def _distinct(self, words: Array, text: Array, starts: Array, ends: Array) -> Array:
        distinct = _distinct(words)
        if distinct is not None:
            first, which = distinct
            texts = self.of(_strings(words[first]))
            self._keep(words[first], texts)
            return texts[which]
        rims = np.minimum(text[starts], text[np.maximum(ends - 1, starts)])
        if len(self.gone) > 1 or (rims <= ord(" ")).any():
            return self.of(_strings(words))
        return _objects(_strings(words))

    def _keep(self, words: Array, texts: Array) -> None:
        """Have more texts at hand, if they are few; another thread may do the same, and one of both is forgotten."""
        wide = np.zeros((len(words), _WIDEST // 8), np.uint64)
        wide[:, : words.shape[1]] = words
        kept = self.kept
        if kept is not None:
            wide, texts = np.concatenate([kept.words, wide]), np.concatenate([kept.texts, texts])
        if len(texts) <= _FEW:
            self.kept = _kept(wide, texts) or kept


def _objects(cells: list[str]) -> Array:
    found = np.empty(len(cells), object)
    found[:] = cells
    return found


def _words(text: Array, starts: Array, ends: Array) -> Array | None:
    """The texts as rows of eight-byte words, filled up with zeros; None where one is too long for that."""
    lengths = ends - starts
    widest = int(lengths.max(initial=1))
    if widest > _WIDEST:
        return None
    view = words_of(text)
    found = np.empty((-(-widest // 8), len(starts)), "<u8")
    for place, word in enumerate(found):
        word[...] = view[starts + 8 * place]
        spare = np.maximum(8 * (8 * (place + 1) - lengths), 0).view(np.uint64)
        word <<= spare
        word >>= spare
    return found.T


def _strings(words: Array) -> list[str]:
    """Rows of words as texts; their bytes are ASCII, and those that fill up are the only zeros."""
    width = 8 * words.shape[1]
    lines = np.empty((len(words), width + 1), np.uint8)
    lines[:, :width] = np.ascontiguousarray(words).view(np.uint8)
    lines[:, width] = ord("\n")
    return lines.tobytes().translate(None, b"\0").decode().split("\n")[:-1]


def _distinct(words: Array) -> tuple[Array, Array] | None:
    """A row of each distinct text, and for each row the place of its text among them; None where nearly all differ."""
    key = words[:, 0].copy()
    for place in range(1, words.shape[1]):
        key = (key ^ (key >> np.uint64(29))) * _MIX[0, place] + words[:, place]
    sample = key[:: max(1, len(key) // 256)]
    if 2 * len(np.unique(sample)) > len(sample) > 64:
        return None
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return (first, which) if bool((words[first][which] == words).all()) else None  # else two texts have one key
