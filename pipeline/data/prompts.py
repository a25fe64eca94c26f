"""Sentences that the answers without a checkpoint compare with: fixed, as another list gives other answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TEMPLATES = ("{}", "a photo of {}", "a video of {}")
"""A query is asked in these forms, whose vectors are averaged."""

_PICTURES = ("a photo", "a picture", "an image", "a video", "a film", "a scene", "a video frame", "a snapshot")
_CONTENTS = ("", " of something", " of someone", " of a place", " of an object")

GENERIC = tuple(picture + content for picture in _PICTURES for content in _CONTENTS)
"""40 sentences that fit any picture."""


def unit_vectors(pooled: Sequence[np.ndarray]) -> np.ndarray:
    """L2-normalise vectors of sentences, (n, D) float64."""
    vectors = np.array(pooled, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def mean_direction(vectors: np.ndarray) -> np.ndarray:
    """Return the normalised mean of vectors (n, D)."""
    mean: np.ndarray = vectors.mean(0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)
