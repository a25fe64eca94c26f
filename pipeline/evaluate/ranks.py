"""Rank@n, IoU=m: how many queries have a fitting window among the first n (the figures of 2D-TAN and MSAT)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mesm.pipeline.evaluate.protocols import Protocol


def rank_names(rank: Mapping[tuple[int, float], float]) -> dict[str, float]:
    """Name figures of Rank@n, IoU=m, such as `Rank5@0.7`, rounded to two decimals."""
    return {f"Rank{n}@{threshold:g}": round(value, 2) for (n, threshold), value in rank.items()}


def rank_figures(overlaps: np.ndarray, protocol: Protocol) -> dict[tuple[int, float], float]:
    """Rank@n, IoU=m of windows (N, P) in the order of the predictions, by their IoU with the best fitting moment."""
    best = np.maximum.accumulate(overlaps, axis=1)
    return {
        (n, threshold): 100 * float(np.mean(best[:, min(n, best.shape[1]) - 1] > threshold))
        for n in protocol.ranks
        for threshold in protocol.rank_thresholds
    }
