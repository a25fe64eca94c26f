"""Leaving out rows that look like the one before: which rows of a film are stored, and how long each stands.

A row is stored when its cosine with the last stored one is below `ALIKE`, and at the latest `LONGEST_S` after it. A
stored row stands for itself and for the rows after it up to the next one, so that a reader who repeats it has a row for
every time again: moments, spans and curves keep their seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mesm.extractors.contracts import FramePlan, VideoEncoder, VideoInfo

ALIKE = 0.97
"""Cosine from which a row is left out."""
LONGEST_S = 10.0
"""Seconds for which a stored row stands, at most."""
LASTS = "lasts"
"""Array of a record beside `features`: (stored,) uint8, the rows of the film that each stored one stands for."""


class AdaptiveEncoder:
    """A video encoder of whose rows those are stored that differ from the one before."""

    def __init__(self, encoder: VideoEncoder, alike: float = ALIKE) -> None:
        """Stand for an encoder; alike: the cosine from which a row is left out."""
        self._encoder, self._alike = encoder, alike
        self.name, self.dim, self.clip_len_s = encoder.name, encoder.dim, encoder.clip_len_s
        self._most = max(1, min(255, int(LONGEST_S / self.clip_len_s)))
        self.spec: Mapping[str, Any] = {**encoder.spec, "stored": {"cosine_below": alike, "at_least_every": self._most}}

    def plan(self, info: VideoInfo) -> FramePlan:
        """Say which frames make each row, stored or not."""
        return self._encoder.plan(info)

    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        """Encode clips as the encoder does."""
        return self._encoder.encode(clips)

    def thinned(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is stored of a film's rows (n, D): `features` (stored, D), and `lasts`."""
        numbers = kept_rows(features, self._alike, self._most)
        return {"features": features[numbers], LASTS: np.diff(numbers, append=len(features)).astype(np.uint8)}


def kept_rows(rows: np.ndarray, alike: float, most: int) -> np.ndarray:
    """Return the numbers (stored,) of those of the rows (n, D) that are stored, at most `most` apart."""
    vectors = rows.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    numbers, last = [0], 0
    while last < len(vectors) - 1:
        next_ones = vectors[last + 1 : last + most]
        other = np.flatnonzero(next_ones @ vectors[last] < alike)
        last += 1 + int(other[0]) if len(other) else most
        if last < len(vectors):
            numbers.append(last)
    return np.array(numbers)


def every_row(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a row (n, D) for every time of a film, those that were left out as the one that stands for them."""
    return np.repeat(arrays["features"], arrays[LASTS], axis=0) if LASTS in arrays else arrays["features"]
