"""The grounding gap: what a network's answers lose when it is shown other videos, with its error.

Answers that come from the sentence alone lose nothing. A gap says nothing without the figure itself: a network that
answers nonsense to a wrong video has a large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline.evaluate.postprocessing import temporal_iou
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.report.table import Estimate

EXCHANGES = 8
"""Times that the videos are exchanged: figures of single exchanges differ by a point of mIoU and two of R1@0.5."""
RESAMPLES = 1000
GAP_FIGURES: Mapping[str, float | None] = {"R1@0.5": 0.5, "mIoU": None}
"""Figures whose gap is told: the IoU that the first window must reach, or None for the mean IoU."""


@dataclass(frozen=True)
class GroundingGap:
    """The gap of each of GAP_FIGURES, in points of per cent."""

    gaps: Mapping[str, Estimate]
    queries: int
    """Queries with a moment."""
    exchanges: int

    def as_record(self) -> dict[str, Any]:
        """Return plain values for JSON, rounded to two decimals."""
        gaps = {
            name: {"gap": round(gap.value, 2), "error": None if gap.error is None else round(gap.error, 2)}
            for name, gap in self.gaps.items()
        }
        return {"queries": self.queries, "exchanges": self.exchanges, **gaps}


def first_overlaps(predictions: Sequence[Prediction], annotations: Sequence[Annotation]) -> np.ndarray:
    """Return (N,) the IoU of each query's first window with the best fitting moment; NaN without a moment.

    predictions stand in the order of the annotations. A query without any window has 0.
    """
    found = np.full(len(annotations), np.nan)
    for row, (prediction, annotation) in enumerate(zip(predictions, annotations, strict=True)):
        if annotation.moments:
            overlaps = temporal_iou(prediction.windows[:1, None, :2], np.array([annotation.moments], np.float64))
            found[row] = overlaps.max(initial=0.0)
    return found


def grounding_gap(right: np.ndarray, others: np.ndarray, videos: Sequence[str]) -> GroundingGap:
    """Compare first overlaps with the right videos (N,) with those of E exchanges (E, N).

    videos: (N,) the right video of each query. The error is the standard deviation of the gap when videos are drawn
    anew with replacement (bootstrap); of a single video there is none.
    """
    asked = ~np.isnan(right)
    _, group = np.unique(np.asarray(videos)[asked], return_inverse=True)
    gaps = {}
    for name, threshold in GAP_FIGURES.items():
        own, other = (_figure(overlaps[..., asked], threshold) for overlaps in (right, others))
        lost = 100 * (own - other.mean(axis=0))
        gaps[name] = Estimate(float(lost.mean()), bootstrap_error(lost, group))
    return GroundingGap(gaps, int(asked.sum()), len(others))


def bootstrap_error(values: np.ndarray, group: np.ndarray, seed: int = 0) -> float | None:
    """Return the standard error of the mean of `values` (N,) when whole groups (N,), 0 to G - 1, are drawn anew.

    Queries of one video are not independent: their errors go together, and single queries drawn anew would understate
    the error. None when there is one group only.
    """
    groups = int(group.max()) + 1
    if groups < 2:
        return None
    sums, counts = np.bincount(group, values, groups), np.bincount(group, minlength=groups)
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)
    return float(np.std(drawn @ sums / (drawn @ counts), ddof=1))


def _figure(overlaps: np.ndarray, threshold: float | None) -> np.ndarray:
    return overlaps if threshold is None else (overlaps >= threshold).astype(np.float64)
