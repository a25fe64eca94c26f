"""Points of a video: a fixed number of times, spread evenly, at which clips meet (2D-TAN and MSAT)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.layouts import to_device

Bags = tuple[Tensor, Tensor, Tensor]
"""Packed rows that points are made of, (K,) int64; where each point's begin, (V * points,) int64; and the weight of
each row, (K,) float32."""


@lru_cache(maxsize=4096)
def rows_of_points(rows: int, clips: int, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say which of a video's rows each of the clips + 1 points averages, and with what weights.

    The rows become `bins` bins: bin i is the mean of rows [b_i, b_{i+1}), or row b_i when that is empty, with
    b_i = i / bins * rows rounded half to even and at most rows - 1; so short videos repeat rows. Point i is the mean of
    the bins / clips bins around i * bins / clips; beyond the ends, bins are zeros that count (the published pooling).

    Returns rows (K,) int64, points (clips + 1,) int64 of where each one's rows begin, and weights (K,) float32.
    """
    edges = np.minimum(np.round(np.arange(bins + 1, dtype=np.float32) / bins * rows), rows - 1).astype(np.int64)
    counts = np.maximum(np.diff(edges), 1)
    size = bins // clips
    point_of_bin = (np.arange(bins) + size // 2) // size
    inside = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    weights = np.repeat((1 / (counts * size)).astype(np.float32), counts)
    starts = np.searchsorted(np.repeat(point_of_bin, counts), np.arange(clips + 1))
    return np.repeat(edges[:-1], counts) + inside, starts, weights


def bags_of_points(lengths: Sequence[int], clips: int, bins: int, device: torch.device) -> Bags:
    """Lay out what the points of V packed videos of these lengths average."""
    rows, starts, weights = [], [], []
    first, taken = 0, 0
    for length in lengths:
        own_rows, own_starts, own_weights = rows_of_points(length, clips, bins)
        rows.append(own_rows + first)
        starts.append(own_starts + taken)
        weights.append(own_weights)
        first, taken = first + length, taken + len(own_rows)
    joined = (np.concatenate(rows), np.concatenate(starts), np.concatenate(weights))
    index, offsets, weight = (to_device(array, device) for array in joined)
    return index, offsets, weight


def pool_points(video: Tensor, bags: Bags) -> Tensor:
    """Packed frames (T, D) to the points of all videos, (V * points, D)."""
    rows, starts, weights = bags
    return F.embedding_bag(rows, video, starts, mode="sum", per_sample_weights=weights.to(video.dtype))


def at_rows(values: Tensor, position: Tensor, lengths: Tensor, sequence: Tensor) -> Tensor:
    """Read values at points (N, points) in the middle of each packed row, linearly between points: (T,).

    position: (T,) 1-based position of each row in its sequence; lengths: (T,) rows of that; sequence: (T,) which it is.
    """
    clips = values.shape[1] - 1
    place = (position - 0.5) / lengths * clips
    low = place.long().clamp(max=clips - 1)
    share = (place - low).to(values.dtype)
    own = values.index_select(0, sequence)
    below, above = (own.gather(1, index[:, None]).squeeze(1) for index in (low, low + 1))
    return below + share * (above - below)
