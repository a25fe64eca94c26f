"""From annotations and feature rows to what the network is trained on, as numpy (MESM data loaders).

A row is one line of a feature matrix; it covers `clip_len_s` seconds, or an equal share of the video when
that is `ROWS_SHARE_DURATION` (TACoS, whose features are cut to a fixed number of rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mesm.datasets.annotations.records import Annotation, Saliency, Window
from mesm.datasets.errors import FeatureError

ROWS_SHARE_DURATION = -1
NORM_EPS = 1e-12

CutMode = Literal["pool", "max", "truncate"]
LengthSource = Literal["duration", "rows"]


@dataclass(frozen=True)
class QueryTargets:
    """The targets of one query on a video of L rows."""

    start_idx: int
    """First row of the earliest moment."""
    end_idx: int
    """Last row of the latest moment, inclusive."""
    clip_mask: np.ndarray
    """(L,) bool, at least one True: the rows inside a moment; with saliency, those with a score above 0."""
    relevant: np.ndarray
    """(L,) bool, at least one True: where positive rows are drawn from; with saliency, every listed clip."""
    saliency: np.ndarray
    """(L,) float32: `clip_mask` as 0 and 1; with saliency, the sum of the annotators' scores."""
    windows: np.ndarray
    """(moments, 2) float32 (start, end) as fractions of the video, 0 to 1."""

    @property
    def spans(self) -> np.ndarray:
        """(moments, 2) float32 (centre, width) as fractions of the video."""
        return np.stack([self.windows.mean(axis=1), self.windows[:, 1] - self.windows[:, 0]], axis=1)

    def extent(self) -> tuple[int, int]:
        """Return the rows [first, stop) that all moments, and all rows inside, lie in."""
        rows, inside = len(self.clip_mask), np.flatnonzero(self.clip_mask)
        first = min(self.start_idx, int(inside[0]), int(np.floor(self.windows.min() * rows)))
        stop = max(self.end_idx + 1, int(inside[-1]) + 1, int(np.ceil(self.windows.max() * rows)))
        return max(first, 0), min(stop, rows)

    def cropped(self, first: int, stop: int) -> QueryTargets:
        """Return the targets on rows [first, stop) of the video, which must hold `extent`."""
        rows, own = len(self.clip_mask), slice(first, stop)
        windows = ((self.windows * rows - first) / (stop - first)).clip(0, 1).astype(np.float32)
        return QueryTargets(
            self.start_idx - first,
            self.end_idx - first,
            self.clip_mask[own],
            self.relevant[own],
            self.saliency[own],
            windows,
        )


def query_targets(
    annotation: Annotation, rows: int, clip_len_s: float, *, length_from: LengthSource = "duration"
) -> QueryTargets:
    """Return the targets of a query on a video of `rows` rows, after pooling or truncation.

    Windows are fractions of the annotated duration, or of `rows * clip_len_s` with `length_from="rows"`,
    which is what the published QVHighlights loader does. A video without a duration counts as `rows *
    clip_len_s` long. Raises FeatureError when neither is known.
    """
    if rows < 1:
        raise FeatureError(f"video {annotation.video_id}: expected at least 1 row of features, found {rows}")
    duration = _duration(annotation, rows, clip_len_s)
    row_len_s = duration / rows if clip_len_s == ROWS_SHARE_DURATION else clip_len_s
    inside = [moment_rows(moment, rows, clip_len_s, duration) for moment in annotation.moments]
    mask = np.zeros(rows, dtype=bool)
    for start, end in inside:
        mask[start : end + 1] = True
    relevant, scores = mask, mask.astype(np.float32)
    if annotation.saliency is not None:
        listed, listed_scores = saliency_rows(annotation.saliency, rows, row_len_s)
        # Cut features can lose every clip that was judged relevant; the moments then stand in for them.
        if listed_scores.any():
            relevant, scores, mask = listed, listed_scores, listed_scores != 0
    length = duration if length_from == "duration" else rows * row_len_s
    windows = (np.asarray(annotation.moments, dtype=np.float64) / length).clip(0, 1)
    return QueryTargets(
        start_idx=min(start for start, _ in inside),
        end_idx=max(end for _, end in inside),
        clip_mask=mask,
        relevant=relevant,
        saliency=scores,
        windows=windows.astype(np.float32),
    )


def moment_rows(moment: Window, rows: int, clip_len_s: float, duration_s: float) -> tuple[int, int]:
    """Return the first and the last row (inclusive) of a moment in seconds, always inside [0, rows)."""
    if clip_len_s == ROWS_SHARE_DURATION:
        first, last = (int(time / duration_s * rows) for time in moment)
    else:
        first, last = (int(time / clip_len_s) for time in moment)
    last = min(last, rows - 1)
    return min(first, last), last


def saliency_rows(saliency: Saliency, rows: int, row_len_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows were judged relevant, (rows,) bool, and their summed scores, (rows,) float32.

    A row takes the clip in which its centre lies; with rows as long as the clips, row i is clip i.
    """
    clip_of_row = np.floor((np.arange(rows) + 0.5) * row_len_s / saliency.clip_len_s)
    order = np.argsort(saliency.clip_ids)
    clips = np.asarray(saliency.clip_ids, np.float64)[order]
    sums = np.array([sum(clip) for clip in saliency.scores], np.float32)[order]
    place = np.minimum(np.searchsorted(clips, clip_of_row), len(clips) - 1)
    listed = clips[place] == clip_of_row
    return listed, np.where(listed, sums[place], np.float32(0))


def sample_windows(count: int, limit: int, generator: np.random.Generator) -> np.ndarray:
    """Choose which of a query's `count` windows to train on: all, or `limit` random ones.

    The published QVHighlights loader trains on at most 5. Returns the positions of the chosen windows,
    ascending, (min(count, limit),) int64.
    """
    if count <= limit:
        return np.arange(count)
    return np.sort(generator.choice(count, size=limit, replace=False))


def sample_pos_neg(
    relevant: np.ndarray,
    valid: np.ndarray,
    generator: np.random.Generator,
    saliency: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw two rows inside and two rows outside the moments of each query, for the triplet term.

    Shapes: `relevant`, `valid` (no padding) and `saliency` (N, L); the results are (N, 2) int64 each. Without
    saliency: two random relevant rows and two random irrelevant ones, different where there are two. With
    saliency (QVHighlights): positives are the relevant row of the highest score and a random relevant one,
    negatives the relevant row of the lowest score and a random irrelevant one. Without any irrelevant row,
    the negatives repeat the positives, whose triplet term is then constant; with saliency, both random rows
    repeat the chosen ones instead, as published.
    """
    relevant = relevant & valid
    if not relevant.any(axis=1).all():
        raise ValueError("every query needs at least one relevant row")
    has_negatives = (valid & ~relevant).any(axis=1, keepdims=True)
    random_pos = _two_random(relevant, generator)
    random_neg = _two_random(valid & ~relevant, generator)
    if saliency is None:
        return random_pos, np.where(has_negatives, random_neg, random_pos)
    hard_pos = np.where(relevant, saliency, -np.inf).argmax(axis=1)[:, None]
    hard_neg = np.where(relevant, saliency, np.inf).argmin(axis=1)[:, None]
    easy_pos = np.where(has_negatives, random_pos[:, :1], hard_pos)
    easy_neg = np.where(has_negatives, random_neg[:, :1], hard_neg)
    return np.hstack([hard_pos, easy_pos]), np.hstack([hard_neg, easy_neg])


def prepare_video(
    streams: Sequence[np.ndarray], max_rows: int, mode: CutMode = "pool", normalise: bool = True
) -> np.ndarray:
    """Join feature streams into the network's input (L, D + 2) float32.

    Each stream (rows, dim) is L2-normalised by row on its own (`normalise`), all are cut to the shortest and joined in
    the given order. More than `max_rows` rows are averaged into that many (`pool`), give their maxima (`max`) or are
    cut off (`truncate`, QVHighlights). Two columns are added, the start and the end of each row as a fraction of L
    (temporal endpoint features).
    """
    if not streams or any(stream.ndim != 2 or not len(stream) for stream in streams):
        shapes = [stream.shape for stream in streams]
        raise FeatureError(f"expected one or more streams (rows, dim) with at least 1 row, found {shapes}")
    rows = min(len(stream) for stream in streams)
    if mode == "truncate":
        rows = min(rows, max_rows)
    parts = [stream[:rows].astype(np.float32) for stream in streams]
    video = np.concatenate([_normalise_rows(part) for part in parts] if normalise else parts, axis=1)
    if rows > max_rows:
        video = pool_rows(video, max_rows, "max" if mode == "max" else "mean")
    length = np.float32(len(video))
    edges = np.arange(len(video) + 1, dtype=np.float32) / length
    return np.concatenate([video, edges[:-1, None], edges[1:, None]], axis=1)


def pool_rows(video: np.ndarray, bins: int, by: Literal["mean", "max"] = "mean") -> np.ndarray:
    """Bring (rows, dim) down to (bins, dim), rows > bins.

    Bin i is the mean, or the maximum, of rows [b_i, b_{i+1}), or row b_i when that is empty, with b_i = i / bins * rows
    rounded half to even and at most rows - 1. So the last row falls out, as in the published loaders.
    """
    rows = len(video)
    edges = np.minimum(np.round(np.arange(bins + 1) / bins * rows), rows - 1).astype(np.int64)
    # reduceat returns row b_i for an empty bin; the segment that starts at the last edge is no bin.
    if by == "max":
        return np.asarray(np.maximum.reduceat(video, edges, axis=0)[:-1])
    sums = np.add.reduceat(video, edges, axis=0)[:-1]
    return sums / np.maximum(np.diff(edges), 1)[:, None].astype(np.float32)


def _duration(annotation: Annotation, rows: int, clip_len_s: float) -> float:
    if annotation.duration_s is not None:
        return annotation.duration_s
    if clip_len_s == ROWS_SHARE_DURATION:
        raise FeatureError(
            f"query {annotation.query_id}: the features' rows share the video's duration, so the annotation "
            f"of video {annotation.video_id} needs one"
        )
    return rows * clip_len_s


def _normalise_rows(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), NORM_EPS)


def _two_random(pool: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return (N, 2) random columns of each row's pool, the same one twice where it has just one."""
    keys = np.where(pool, generator.random(pool.shape), -1.0)
    first = keys.argmax(axis=1)
    keys[np.arange(len(keys)), first] = -1.0
    second = np.where(keys.max(axis=1) < 0, first, keys.argmax(axis=1))
    return np.stack([first, second], axis=1)
