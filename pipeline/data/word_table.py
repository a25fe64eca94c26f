"""The vectors of the words of many sentences, each vector once."""

from __future__ import annotations

import hashlib

import numpy as np


class WordRows:
    """Distinct vectors in one table. Those of GloVe come again in many sentences, those of a text encoder do not."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._row_of: dict[bytes, int] = {}
        self._vectors: list[np.ndarray] = []

    def add(self, vectors: np.ndarray) -> np.ndarray:
        """Take in the vectors (W, D) of a sentence; returns the row of each, (W,) int64."""
        rows = np.empty(len(vectors), np.int64)
        for place, vector in enumerate(np.ascontiguousarray(vectors)):
            key = hashlib.blake2b(vector.data, digest_size=16).digest()
            row = self._row_of.setdefault(key, len(self._vectors))
            if row == len(self._vectors):
                self._vectors.append(vector.copy())
            rows[place] = row
        return rows

    def table(self) -> np.ndarray:
        """Return the distinct vectors and, behind them, zeros for padding: (rows + 1, D) float32."""
        found = np.zeros((len(self._vectors) + 1, self._dim), np.float32)
        for row, vector in enumerate(self._vectors):
            found[row] = vector
        return found
