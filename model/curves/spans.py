"""Curves and spans of rows: what all procedures that read moments from a curve are made of.

A curve is (n,) float64, one value a row. Spans are (k, 3) float64: first row, row after the last, score.
"""

from __future__ import annotations

from typing import Any

import numpy as np

DECIMALS = 9
"""Digits that a standardised curve keeps: beyond them the unit of the similarities would decide ties."""

BLOCK_ROWS = 1024
"""Rows that are turned into float64 at a time."""


def standardise(values: np.ndarray) -> np.ndarray:
    """Shift and scale a curve (n,) to mean 0 and standard deviation 1; one that is constant, to rounding, gives 0."""
    values = np.asarray(values, np.float64)
    deviation = values.std()
    if deviation <= 1e-9 * np.abs(values).max():
        return np.zeros_like(values)
    return np.round((values - values.mean()) / deviation, DECIMALS)


def smooth(values: np.ndarray, half_width: int) -> np.ndarray:
    """Average a curve (n,) over `2 half_width + 1` rows; beyond the ends, the first and last value go on."""
    sums = np.cumsum(np.pad(values, (half_width + 1, half_width), mode="edge"))
    return (sums[2 * half_width + 1 :] - sums[: len(values)]) / (2 * half_width + 1)


def prefix_sums(values: np.ndarray) -> np.ndarray:
    """Return (n + 1,) sums, so that rows start to end add up to `sums[end] - sums[start]`."""
    return np.concatenate([[0.0], np.cumsum(values)])


def means(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the mean of the curve inside each span, (k,)."""
    sums = prefix_sums(values)
    return (sums[ends] - sums[starts]) / (ends - starts)


def contrast(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the mean inside minus the mean outside of each span, (k,); 0 for the whole curve."""
    sums, lengths = prefix_sums(values), ends - starts
    outside = len(values) - lengths
    left = (sums[-1] - (sums[ends] - sums[starts])) / np.maximum(outside, 1)
    return np.where(outside > 0, means(values, starts, ends) - left, 0.0)


def statistic(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the two-sample statistic of each span of a standardised curve, (k,).

    The contrast times the root of L (n - L) / n, for L of n rows inside: a short peak of noise counts for less than a
    long rise of the same height.
    """
    lengths = ends - starts
    return contrast(values, starts, ends) * np.sqrt(lengths * (len(values) - lengths) / len(values))


def all_spans(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends of all spans of `rows` rows, (rows (rows + 1) / 2,) each."""
    starts, last = np.triu_indices(rows)
    return starts, last + 1


def runs(on: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return level, start and end of every run of true in (levels, n) bool, by level and then by time."""
    edges = np.diff(np.pad(on, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    levels, starts = np.nonzero(edges == 1)
    return levels, starts, np.nonzero(edges == -1)[1]


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the intersection over union of spans (k, 2 or more) and (m, 2 or more): (k, m)."""
    shared = np.minimum(one[:, None, 1], other[None, :, 1]) - np.maximum(one[:, None, 0], other[None, :, 0])
    shared = np.maximum(shared, 0.0)
    lengths = (one[:, 1] - one[:, 0])[:, None] + (other[:, 1] - other[:, 0])[None]
    return shared / (lengths - shared)


def best_apart(spans: np.ndarray, iou: float, most: int) -> np.ndarray:
    """Return at most `most` spans, best first, none of which overlaps a better one by more than `iou`."""
    spans = spans[np.argsort(-spans[:, 2], kind="stable")]
    kept: list[Any] = []
    while len(spans) and len(kept) < most:
        best, spans = spans[:1], spans[1:]
        kept.append(best[0])
        spans = spans[overlaps(best, spans)[0] <= iou]
    return np.array(kept).reshape(-1, 3)


def scored(starts: np.ndarray, ends: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Put spans and their scores together, (k, 3)."""
    return np.stack([starts, ends, scores], axis=1).astype(np.float64)


def blocks(rows: int) -> list[slice]:
    """Return the parts in which so many rows are gone through, so that no second copy of all of them is made."""
    return [slice(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS)]


def normalised(rows: np.ndarray, least: float) -> np.ndarray:
    """L2-normalise rows (n, D); those shorter than `least` become shorter than 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), least)
