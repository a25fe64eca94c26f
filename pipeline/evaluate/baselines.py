"""Two answers that need no model, to hold every table against: the best fixed window and the whole video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline.evaluate.metrics import MetricsError
from mesm.pipeline.evaluate.postprocessing import temporal_iou
from mesm.pipeline.evaluate.predictions import Prediction

GRID_STEPS = 50
"""Edges tried per video: every fiftieth of the duration."""
CANDIDATES_AT_ONCE = 64
Criterion = Literal["R1@0.5", "mIoU"]


@dataclass(frozen=True)
class FixedWindow:
    """The same window for every query, in fractions of the video's duration."""

    start: float
    end: float

    @property
    def name(self) -> str:
        """How tables call it."""
        whole = (self.start, self.end) == (0.0, 1.0)
        return "whole video" if whole else f"fixed window {self.start:.0%} to {self.end:.0%}"

    def predict(
        self, annotations: Sequence[Annotation], durations_s: Mapping[str, float] | None = None
    ) -> list[Prediction]:
        """Answer every query with this window.

        `durations_s` (seconds by video id) is asked for videos whose annotation does not say how long they
        are.
        """
        predictions = []
        for annotation in annotations:
            duration = query_duration(annotation, durations_s)
            window = np.array([[self.start * duration, self.end * duration, 1.0]])
            predictions.append(Prediction(annotation.query_id, annotation.query, annotation.video_id, window))
        return predictions


WHOLE_VIDEO = FixedWindow(0.0, 1.0)


def fit_fixed_window(
    annotations: Sequence[Annotation],
    *,
    criterion: Criterion = "R1@0.5",
    durations_s: Mapping[str, float] | None = None,
) -> FixedWindow:
    """Find the window on a grid of the duration that answers these (training) queries best.

    Of several equally good windows it takes the one with the best mean IoU.
    """
    answered = [annotation for annotation in annotations if annotation.moments]
    if not answered:
        raise MetricsError("a fixed window is fitted on annotated queries, found none with a moment")
    counts = np.fromiter((len(a.moments) for a in answered), np.int64, len(answered))
    durations = np.array([query_duration(annotation, durations_s) for annotation in answered])
    moments = np.array(list(chain.from_iterable(a.moments for a in answered))) / durations.repeat(counts)[:, None]
    firsts = np.concatenate([[0], counts.cumsum()[:-1]])
    edges = np.arange(GRID_STEPS + 1) / GRID_STEPS
    windows = np.stack([edges[i] for i in np.triu_indices(GRID_STEPS + 1, k=1)], axis=1)
    recall, miou = np.empty(len(windows)), np.empty(len(windows))
    for start in range(0, len(windows), CANDIDATES_AT_ONCE):
        some = slice(start, start + CANDIDATES_AT_ONCE)
        best = np.maximum.reduceat(temporal_iou(windows[some, None], moments), firsts, axis=1)
        recall[some], miou[some] = (best >= 0.5).mean(axis=1), best.mean(axis=1)
    value = np.lexsort((miou, recall))[-1] if criterion == "R1@0.5" else miou.argmax()
    return FixedWindow(*windows[value].tolist())


def query_duration(annotation: Annotation, durations_s: Mapping[str, float] | None) -> float:
    """Return the seconds of a query's video; raises MetricsError when neither source knows them."""
    if annotation.duration_s is not None:
        return annotation.duration_s
    if durations_s is not None and annotation.video_id in durations_s:
        return durations_s[annotation.video_id]
    raise MetricsError(
        f"query {annotation.query_id}: the duration of the video {annotation.video_id} is unknown; "
        "expected duration_s in the annotation, or features of that video"
    )
