"""What a score means: the share of answers with that score which are right.

An answer is right when its first window has an IoU of 0.5 or more with an annotated moment. Platt's scaling (1999) is
temperature scaling (Guo et al., 2017) with an offset, which a network needs whose score is not of that event:
`p = sigmoid(logit(score) / temperature + offset)`. It never changes the order of answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline.evaluate.postprocessing import temporal_iou
from mesm.pipeline.evaluate.predictions import Prediction

RIGHT_IOU = 0.5
BINS = 15
TEMPERATURES = (0.05, 20.0)
_EDGE = 1e-6


@dataclass(frozen=True)
class Bin:
    """Answers whose scores lie in one fifteenth of 0 to 1."""

    answers: int
    score: float
    """Mean."""
    right: float
    """Share of right answers."""


@dataclass(frozen=True)
class Calibration:
    """How scores of one checkpoint become shares of right answers."""

    temperature: float
    offset: float
    queries: int
    """Of the measurement."""
    split: str
    """Which they were."""
    epoch: int | None
    """Of the checkpoint; None where it does not say."""

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return scores in 0 to 1 as probabilities, in the same order."""
        return _sigmoid(_logit(scores) / self.temperature + self.offset)


@dataclass(frozen=True)
class Reliability:
    """How far scores are from the share of right answers on one split, as they were and calibrated."""

    queries: int
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]

    @property
    def errors(self) -> tuple[float, float]:
        """Expected calibration error before and after: 0 to 1."""
        return expected_error(self.before), expected_error(self.after)

    def as_record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        before, after = self.errors
        return {"queries": self.queries, "ece_before": round(before, 4), "ece_after": round(after, 4)}


def answers_and_truth(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation]
) -> tuple[np.ndarray, np.ndarray]:
    """Return score (n,) and rightness (n,) bool of first windows, of the queries that have a window and a moment."""
    scores, right = [], []
    for prediction, annotation in zip(predictions, annotations, strict=True):
        if len(prediction.windows) and len(annotation.moments):
            first = prediction.windows[0]
            scores.append(first[2])
            right.append(bool((temporal_iou(first[:2], np.array(annotation.moments, float)) >= RIGHT_IOU).any()))
    return np.array(scores, float), np.array(right, bool)


def fit(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Return the temperature and offset of the least negative log likelihood of (n,) answers being right.

    Platt's targets stand a little inside 0 and 1, so that answers which are all right, or all wrong, have a fit, too.
    """
    from scipy.optimize import minimize

    logits, hits = _logit(scores), int(right.sum())
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))

    def loss(place: np.ndarray) -> tuple[float, np.ndarray]:
        z = logits * math.exp(-place[0]) + place[1]
        wrong_by = _sigmoid(z) - target
        slope = np.array([-(wrong_by * logits * math.exp(-place[0])).mean(), wrong_by.mean()])
        return float((np.logaddexp(0, z) - target * z).mean()), slope

    bounds = [tuple(math.log(edge) for edge in TEMPERATURES), (-20.0, 20.0)]
    found = minimize(loss, np.zeros(2), jac=True, bounds=bounds, method="L-BFGS-B").x
    return math.exp(found[0]), float(found[1])


def reliability_bins(scores: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    """Sort (n,) answers by score into BINS equal parts of 0 to 1; empty parts are left out."""
    places = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    return tuple(
        Bin(int(inside.sum()), float(scores[inside].mean()), float(right[inside].mean()))
        for inside in (places == number for number in range(BINS))
        if inside.any()
    )


def expected_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean distance of score and share of right answers over all answers."""
    total = sum(one.answers for one in bins)
    return sum(one.answers * abs(one.score - one.right) for one in bins) / total if total else 0.0


def measure(
    calibration: Calibration, predictions: Sequence[Prediction], annotations: Sequence[Annotation]
) -> Reliability | None:
    """Compare scores of a split, as they are and calibrated, with the truth; None when no query has a moment."""
    scores, right = answers_and_truth(predictions, annotations)
    if not len(scores):
        return None
    return Reliability(len(scores), reliability_bins(scores, right), reliability_bins(calibration.apply(scores), right))


def _logit(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(np.asarray(scores, float), _EDGE, 1 - _EDGE)
    return np.log(inside) - np.log1p(-inside)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))
