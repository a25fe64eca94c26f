"""Figures as some published codes make them: of each batch of the test split, then their mean over batches.

The last batch, which is smaller, weighs as much as the others there. For comparison with such figures only.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline.evaluate.metrics import MomentScores, evaluate_predictions
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.evaluate.protocols import Protocol
from mesm.pipeline.evaluate.ranks import rank_names


def batch_means(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation], protocol: Protocol, size: int
) -> dict[str, float]:
    """Return Rank@n, IoU=m and mIoU, per cent, as means over batches of so many queries in the order of the file."""
    by_id = {prediction.query_id: prediction for prediction in predictions}
    found: list[MomentScores] = []
    for first in range(0, len(annotations), size):
        part = annotations[first : first + size]
        found.append(evaluate_predictions([by_id[a.query_id] for a in part], part, protocol).full)
    figures = {key: statistics.mean(scores.rank[key] for scores in found) for key in found[0].rank}
    return {**rank_names(figures), "mIoU": round(statistics.mean(scores.miou for scores in found), 2)}
