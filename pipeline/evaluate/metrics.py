"""Moment retrieval and highlight detection metrics, over all queries at once.

Definitions follow the standalone evaluation of Moment-DETR (QVHighlights), with the additions of MESM's
(R1@0.3, mIoU, further length ranges). All figures are percentages; a range without any moment has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.video_names import video_name
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.evaluate.postprocessing import temporal_iou
from mesm.pipeline.evaluate.predictions import Prediction, load_predictions
from mesm.pipeline.evaluate.protocols import Protocol
from mesm.pipeline.evaluate.ranks import rank_figures, rank_names

__all__ = [
    "HIGHLIGHT_LEVELS",
    "HighlightScores",
    "MetricsError",
    "MomentScores",
    "Scores",
    "evaluate_predictions",
    "load_predictions",
]

HIGHLIGHT_LEVELS: Mapping[str, int] = {"Fair": 2, "Good": 3, "VeryGood": 4}
"""An annotator's score (0 to 4) from which a clip counts as a highlight at this level."""
SHOWN_IDS = 5
MOST_JUDGEMENTS = 2**27
"""A gigabyte of judgements; QVHighlights' 1,550 queries have 75 clips of 3 judgements each."""


class MetricsError(PipelineError):
    """Predictions and annotations do not belong together, or hold nothing that can be scored."""


@dataclass(frozen=True)
class MomentScores:
    """Moment retrieval over the queries that have a moment of the wanted length; percent."""

    queries: int
    r1: Mapping[float, float]
    """IoU threshold -> queries whose first window reaches it with any of their moments."""
    miou: float
    """Mean IoU of the first window with the best fitting moment."""
    ap: Mapping[float, float]
    """IoU threshold -> average precision, mean over queries."""
    rank: Mapping[tuple[int, float], float] = field(default_factory=dict)
    """(n, IoU threshold) -> queries of which any of the first n windows has a larger IoU with any of their moments."""

    @property
    def ap_average(self) -> float:
        """Mean of `ap` over its thresholds."""
        return float(np.mean(list(self.ap.values())))

    def as_record(self) -> dict[str, Any]:
        """Return plain values, rounded to two decimals, with the keys of the published evaluation."""
        ap = {_text(threshold): round(value, 2) for threshold, value in self.ap.items()}
        r1 = {_text(threshold): round(value, 2) for threshold, value in self.r1.items()}
        return {
            "queries": self.queries,
            "MR-mAP": ap | {"average": round(self.ap_average, 2)},
            "MR-R1": r1 | {"miou": round(self.miou, 2)},
            **({"MR-Rank": rank_names(self.rank)} if self.rank else {}),
        }


@dataclass(frozen=True)
class HighlightScores:
    """Highlight detection at one level of agreement; percent."""

    ap: float
    """Average precision of the clips' ranking, mean over queries and annotators."""
    hit1: float
    """Queries whose highest ranked clip at least one annotator calls a highlight."""


@dataclass(frozen=True)
class Scores:
    """All figures of one evaluation."""

    protocol: str
    queries: int
    """Queries that were scored."""
    unscored: int
    """Queries left out because annotation or prediction was missing; 0 unless that was allowed."""
    moments: Mapping[str, MomentScores | None]
    """`full` and the protocol's length ranges; None for a range without moments."""
    highlights: Mapping[str, HighlightScores] | None
    """By level; None when annotations or predictions hold no saliency."""

    @property
    def full(self) -> MomentScores:
        """Figures over moments of every length."""
        scores = self.moments["full"]
        assert scores is not None
        return scores

    def brief(self) -> dict[str, float | None]:
        """Return the headline figures with the published names, rounded to two decimals."""
        full = self.full
        figures: dict[str, float | None] = {
            f"MR-full-R1@{_text(threshold)}": round(full.r1[threshold], 2)
            for threshold in (0.1, 0.3, 0.5, 0.7)
            if threshold in full.r1
        }
        figures["MR-full-miou"] = round(full.miou, 2)
        figures |= {f"MR-full-{name}": value for name, value in rank_names(full.rank).items()}
        figures["MR-full-mAP"] = round(full.ap_average, 2)
        for threshold in (0.5, 0.75):
            if threshold in full.ap:
                figures[f"MR-full-mAP@{_text(threshold)}"] = round(full.ap[threshold], 2)
        for name, scores in self.moments.items():
            if name != "full":
                figures[f"MR-{name}-mAP"] = None if scores is None else round(scores.ap_average, 2)
        for level, highlight in (self.highlights or {}).items():
            figures[f"HL-min-{level}-mAP"] = round(highlight.ap, 2)
            figures[f"HL-min-{level}-Hit1"] = round(highlight.hit1, 2)
        return figures

    def as_record(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, with the published names."""
        record: dict[str, Any] = {
            "protocol": self.protocol,
            "queries": self.queries,
            "unscored": self.unscored,
        }
        record["brief"] = self.brief()
        for level, highlight in (self.highlights or {}).items():
            figures = {"HL-mAP": round(highlight.ap, 2), "HL-Hit1": round(highlight.hit1, 2)}
            record[f"HL-min-{level}"] = figures
        for name, scores in self.moments.items():
            record[name] = None if scores is None else scores.as_record()
        return record


def evaluate_predictions(
    predictions: Sequence[Prediction],
    annotations: Sequence[Annotation],
    protocol: Protocol,
    *,
    allow_partial: bool = False,
) -> Scores:
    """Score predictions as they are: nothing is sorted out, rounded or clamped here.

    As in the published evaluation, R1 takes the first window of a query; average precision takes the first
    `protocol.max_windows` in the order of their scores. A query without any window counts as missed. With
    `allow_partial` only the queries that both sides know are scored; otherwise a difference raises
    MetricsError.
    """
    pairs, unscored = _match(predictions, annotations, allow_partial)
    predicted = _pack_windows([prediction.windows for prediction, _ in pairs], protocol.max_windows)
    truth = _pack_moments([annotation.moments for _, annotation in pairs])
    if not truth.present.any():
        raise MetricsError(f"none of the {len(pairs)} annotated queries has a moment: there is nothing to score")
    overlaps = temporal_iou(predicted.values[:, :, None, :2], truth.values[:, None, :, :])
    moments = {"full": _score_moments(predicted, truth.present, overlaps, protocol)}
    lengths = truth.values[..., 1] - truth.values[..., 0]
    for wanted in protocol.length_ranges:
        inside = truth.present & (lengths > wanted.low_s) & (lengths <= wanted.high_s)
        moments[wanted.name] = _score_moments(predicted, inside, overlaps, protocol)
    return Scores(protocol.name, len(pairs), unscored, moments, _score_highlights(pairs))


@dataclass(frozen=True)
class _Padded:
    """Lists of different lengths as one array (N, most, columns), and which entries are real (N, most)."""

    values: np.ndarray
    present: np.ndarray


def _match(
    predictions: Sequence[Prediction], annotations: Sequence[Annotation], allow_partial: bool
) -> tuple[list[tuple[Prediction, Annotation]], int]:
    """Pair predictions with annotations by query id, in the order of the annotations."""
    by_id = {str(prediction.query_id): prediction for prediction in predictions}
    known = {str(annotation.query_id) for annotation in annotations}
    if len(by_id) < len(predictions) or len(known) < len(annotations):
        whose = "predictions" if len(by_id) < len(predictions) else "annotations"
        raise MetricsError(f"the {whose} hold the same query id more than once; expected one record a query")
    missing = [key for key in map(str, (a.query_id for a in annotations)) if key not in by_id]
    extra = [key for key in by_id if key not in known]
    if len(missing) == len(known):
        raise MetricsError(
            f"predictions and annotations have no query id in common: predictions hold {_some(by_id)}, "
            f"annotations hold {_some(known)}; are they of the same dataset and split?"
        )
    if (missing or extra) and not allow_partial:
        raise MetricsError(
            f"predictions and annotations differ: {len(missing)} of {len(known)} annotated queries have no "
            f"prediction{_listed(missing)} and {len(extra)} predictions have no annotation{_listed(extra)}; "
            "predict every query of the split once, and name the split by --split"
        )
    pairs = [(by_id[key], a) for a in annotations if (key := str(a.query_id)) in by_id]
    others = [
        f"{a.query_id}: {p.video_id}, not {a.video_id}"
        for p, a in pairs
        if p.video_id and video_name(p.video_id) != video_name(a.video_id)
    ]
    if others:
        raise MetricsError(
            f"{len(others)} of {len(pairs)} predictions are of another video than the annotation with their query id "
            f"({_some(others)}); are they of the same dataset and split?"
        )
    return pairs, len(missing) + len(extra)


def _pack_windows(rows: Sequence[np.ndarray], most: int) -> _Padded:
    """Pack each query's first `most` windows; values are start s, end s, score."""
    counts = np.fromiter((min(len(windows), most) for windows in rows), np.int64, len(rows))
    present = np.arange(max(1, counts.max())) < counts[:, None]
    values = np.zeros((*present.shape, 3))
    values[present] = np.concatenate([windows[:most] for windows in rows])
    return _Padded(values, present)


def _pack_moments(rows: Sequence[Sequence[tuple[float, float]]]) -> _Padded:
    """Pack each query's moments; values are start s, end s."""
    counts = np.fromiter(map(len, rows), np.int64, len(rows))
    present = np.arange(max(1, counts.max())) < counts[:, None]
    values = np.zeros((*present.shape, 2))
    flat = chain.from_iterable(chain.from_iterable(rows))
    values[present] = np.fromiter(flat, np.float64, 2 * int(counts.sum())).reshape(-1, 2)
    return _Padded(values, present)


def _score_moments(
    predicted: _Padded, inside: np.ndarray, overlaps: np.ndarray, protocol: Protocol
) -> MomentScores | None:
    """Score the queries that have a moment `inside` (N, G); overlaps (N, P, G) is IoU; None without any."""
    asked = inside.any(axis=1)
    if not asked.any():
        return None
    counts = inside[asked].sum(axis=1)
    wanted = np.argsort(~inside[asked], axis=1, kind="stable")[:, : counts.max()]
    overlaps = np.take_along_axis(overlaps[asked], wanted[:, None, :], axis=2)
    overlaps[np.broadcast_to((np.arange(counts.max()) >= counts[:, None])[:, None], overlaps.shape)] = -1
    present = predicted.present[asked]
    first = np.where(present[:, 0], overlaps[:, 0].max(axis=1), 0)
    rank = rank_figures(np.where(present, overlaps.max(axis=2), 0), protocol) if protocol.ranks else {}
    ranked = np.where(present, predicted.values[asked][..., 2], -np.inf)
    order = np.argsort(-ranked, axis=1, kind="stable")
    present = np.take_along_axis(present, order, axis=1)
    precision = _average_precision(
        np.take_along_axis(overlaps, order[..., None], axis=1), present, counts, protocol.ap_thresholds
    )
    return MomentScores(
        queries=int(asked.sum()),
        r1={threshold: 100 * float(np.mean(first >= threshold)) for threshold in protocol.r1_thresholds},
        miou=100 * float(first.mean()),
        ap=dict(zip(protocol.ap_thresholds, (100 * precision.mean(axis=0)).tolist(), strict=True)),
        rank=rank,
    )


def _average_precision(
    overlaps: np.ndarray, present: np.ndarray, moments: np.ndarray, thresholds: Sequence[float]
) -> np.ndarray:
    """Interpolated average precision of each query (VOC 2010 and ActivityNet): (N, thresholds), 0 to 1.

    overlaps (N, P, G): IoU of ranked windows with moments, -1 where there is none; present (N, P) tells
    real windows; moments (N,) counts. A window takes the best fitting moment that is free, if that reaches
    the threshold.
    """
    hits = _assign(overlaps, np.asarray(thresholds)) & present[:, None, :]
    true_positives = hits.cumsum(axis=2)
    precision = true_positives / np.arange(1, hits.shape[2] + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    return (envelope * hits).sum(axis=2) / moments[:, None]


def _assign(overlaps: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Mark which ranked windows find a free moment: overlaps (N, P, G) -> (N, thresholds, P) bool."""
    queries, windows, moments = overlaps.shape
    if moments == 1:
        reaches = overlaps[:, None, :, 0] >= thresholds[:, None]
        return reaches & (reaches.cumsum(axis=2) == 1)
    single = np.count_nonzero(overlaps[:, 0] >= 0, axis=1) == 1
    hits = np.empty((queries, len(thresholds), windows), dtype=bool)
    hits[single] = _assign(overlaps[single].max(axis=2, keepdims=True), thresholds)
    hits[~single] = _assign_greedily(overlaps[~single], thresholds)
    return hits


def _assign_greedily(overlaps: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Do what `_assign` does when queries have several moments: one window after the other."""
    queries, windows, moments = overlaps.shape
    free = np.ones((queries, len(thresholds), moments), dtype=bool)
    hits = np.zeros((queries, len(thresholds), windows), dtype=bool)
    for rank in range(windows):
        candidates = np.where(free, overlaps[:, None, rank], -1.0)
        # Of equal overlaps the published code takes the last one.
        best = moments - 1 - candidates[..., ::-1].argmax(axis=2)[..., None]
        hits[..., rank] = np.take_along_axis(candidates, best, axis=2)[..., 0] >= thresholds
        taken = np.take_along_axis(free, best, axis=2) & ~hits[..., rank, None]
        np.put_along_axis(free, best, taken, axis=2)
    return hits


def _score_highlights(pairs: Sequence[tuple[Prediction, Annotation]]) -> dict[str, HighlightScores] | None:
    """Score the queries whose clips were judged; None when there are none or a prediction lacks saliency."""
    judged = [(p.saliency, a) for p, a in pairs if a.saliency is not None and a.duration_s is not None]
    saliency = [scores for scores, _ in judged if scores is not None]
    if not judged or len(saliency) < len(judged):
        return None
    truth, clips = _pack_judgements([annotation for _, annotation in judged])
    queries = np.arange(len(judged))
    first = np.fromiter((scores.argmax() if len(scores) else 0 for scores in saliency), np.int64, len(saliency))
    chosen = truth[queries, :, np.minimum(first, truth.shape[2] - 1)].max(axis=1)
    chosen[first >= clips] = -1
    ranking = _pack_saliency(saliency, clips, truth.shape[2])
    order = np.argsort(-ranking, axis=1, kind="stable")
    ranking = np.take_along_axis(ranking, order, axis=1)
    ties_end = np.append(ranking[:, 1:] != ranking[:, :-1], np.ones((len(judged), 1), bool), axis=1)
    truth = np.take_along_axis(truth, order[:, None, :], axis=2)
    return {
        level: HighlightScores(
            ap=100 * float(_ranking_precision(truth >= least, ties_end[:, None, :]).mean()),
            hit1=100 * float(np.mean(chosen >= least)),
        )
        for level, least in HIGHLIGHT_LEVELS.items()
    }


def _pack_judgements(annotations: Sequence[Annotation]) -> tuple[np.ndarray, np.ndarray]:
    """Return judgements (N, annotators, most clips), -1 beyond a video's end, and counts of clips (N,)."""
    judged = [(a.saliency, a.duration_s or 0.0) for a in annotations if a.saliency is not None]
    annotators = {len(scores) for saliency, _ in judged for scores in saliency.scores}
    if len(annotators) != 1:
        raise MetricsError(
            f"highlight detection expects the same number of judgements for every clip, found {sorted(annotators)}"
        )
    lengths = [max(int(d / s.clip_len_s), max(s.clip_ids) + 1) for s, d in judged]
    if len(judged) * max(annotators) * max(lengths) > MOST_JUDGEMENTS:
        raise MetricsError(
            f"highlight detection of {len(judged)} queries would need a table of {max(lengths):,} clips each; expected "
            "durations in seconds"
        )
    clips = np.asarray(lengths)
    counts = [len(saliency.clip_ids) for saliency, _ in judged]
    rows = np.repeat(np.arange(len(judged)), counts)
    columns = np.fromiter(chain.from_iterable(s.clip_ids for s, _ in judged), np.int64, len(rows))
    values = np.array(list(chain.from_iterable(s.scores for s, _ in judged)), dtype=np.float64)
    truth = np.zeros((len(judged), annotators.pop(), int(clips.max())))
    truth[rows, :, columns] = values
    beyond = np.arange(truth.shape[2]) >= clips[:, None]
    truth[np.broadcast_to(beyond[:, None, :], truth.shape)] = -1
    return truth, clips


def _pack_saliency(rows: Sequence[np.ndarray], clips: np.ndarray, most: int) -> np.ndarray:
    """Pack saliency (N, most): cut to a video's clips, 0 for clips without one, -inf beyond the end."""
    counts = np.minimum([len(row) for row in rows], clips)
    columns = np.arange(most)
    packed = np.where(columns < clips[:, None], 0.0, -np.inf)
    packed[columns < counts[:, None]] = np.concatenate([row[:count] for row, count in zip(rows, counts, strict=True)])
    return packed


def _ranking_precision(relevant: np.ndarray, ties_end: np.ndarray) -> np.ndarray:
    """Interpolated average precision of ranked clips: relevant (N, annotators, C) -> (N, annotators), 0 to 1.

    Clips of equal score are one step of the ranking, which ends where `ties_end`. As in the published
    evaluation the mean runs over the steps that find something, and a query without any highlight has 0.
    """
    found = np.where(ties_end, relevant.cumsum(axis=2), 0)
    precision = found / np.arange(1, relevant.shape[2] + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    so_far = np.maximum.accumulate(found, axis=2)
    steps = np.diff(so_far, axis=2, prepend=0) > 0
    return (envelope * steps).sum(axis=2) / np.maximum(1, steps.sum(axis=2))


def _some(ids: Iterable[str]) -> str:
    ids = list(ids)
    return ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")


def _listed(ids: Sequence[str]) -> str:
    return f" ({_some(ids)})" if ids else ""


def _text(threshold: float) -> str:
    return f"{threshold:g}"
