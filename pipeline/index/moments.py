"""From the scores of all rows of an archive to its best moments.

Borders are local and ranks are global, as in one long video (`mesm.model.curves.video`): spans are read from the rows
around each of the highest peaks of the whole archive, and every span is ranked by one rule, the mean of its rows'
scores, standardised over all rows that were searched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mesm.model.curves.spans import best_apart
from mesm.model.curves.video import Reading, find_spans, read_curve
from mesm.pipeline.index.matrix import RowMatrix

PEAKS = 64
"""Peaks around which spans are read, at least; four for each answer that is wanted."""
PEAK_S = 30.0
"""A film has at most one peak in each such part of it."""
SPANS_OF_FILM = 3
"""Spans of a short film that may be answers, and of the surroundings of one peak."""
LARGEST_WINDOW_S = 600.0
APART = 0.5
"""IoU above which the worse of two spans of a film is dropped."""
ALIKE = 0.97
"""Cosine of the mean vectors from which two spans show the same."""


@dataclass(frozen=True)
class Span:
    """A span of rows of one film."""

    film: int
    """Number in the matrix."""
    start: int
    end: int
    """Rows of the film."""
    score: float


def smoothed_in_films(scores: np.ndarray, starts: np.ndarray, half: int) -> np.ndarray:
    """Average scores (N,) over `2 half + 1` rows, never beyond the film's own; starts: (films + 1,)."""
    sums = np.concatenate([[0.0], np.cumsum(scores, dtype=np.float64)])
    lengths = np.diff(starts)
    rows = np.arange(len(scores))
    low = np.maximum(rows - half, np.repeat(starts[:-1], lengths))
    high = np.minimum(rows + half + 1, np.repeat(starts[1:], lengths))
    return (sums[high] - sums[low]) / (high - low)


def peaks(smoothed: np.ndarray, starts: np.ndarray, part: int, count: int) -> np.ndarray:
    """Return the rows of the `count` highest values, one in each part of `part` rows of a film, highest first."""
    lengths = np.diff(starts)
    parts = -(-lengths // part)
    first = np.repeat(starts[:-1], parts)
    within = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begins = first + within * part
    highest = np.maximum.reduceat(smoothed, begins)
    count = min(count, int(np.isfinite(highest).sum()))
    best = np.argsort(-highest, kind="stable")[:count]
    ends = np.append(begins[1:], len(smoothed))
    return np.array([begins[one] + np.argmax(smoothed[begins[one] : ends[one]]) for one in best], np.int64)


def find_moments(
    matrix: RowMatrix,
    wanted: np.ndarray,
    scores: np.ndarray,
    searched: np.ndarray,
    reading: Reading,
    row_s: float,
    count: int,
) -> list[Span]:
    """Return the best moments of an archive, at least `count` of them where there are as many, best first.

    wanted (D,): the direction that rows should have; scores (N,) of all rows by it; searched (films,) bool: which films
    may answer; row_s: seconds of a row. Scores of spans are standard deviations above the mean of all rows that were
    searched.
    """
    rows = np.repeat(searched, np.diff(matrix.starts))
    if not rows.any():
        return []
    mean, deviation = float(scores[rows].mean(dtype=np.float64)), float(scores[rows].std(dtype=np.float64))
    smoothed = smoothed_in_films(scores, matrix.starts, max(0, round((reading.smoothed_s / row_s - 1) / 2)))
    tops = peaks(np.where(rows, smoothed, -np.inf), matrix.starts, round(PEAK_S / row_s), max(PEAKS, 4 * count))
    looked: dict[int, list[tuple[int, int]]] = {}
    found: dict[int, list[np.ndarray]] = {}
    for top in tops.tolist():
        film = int(np.searchsorted(matrix.starts, top, side="right")) - 1
        if any(start <= top < end for start, end in looked.get(film, ())):
            continue
        window, spans = _spans_around(matrix, wanted, film, top, reading, row_s)
        looked.setdefault(film, []).append(window)
        spans[:, 2] = (spans[:, 2] - mean) / max(deviation, 1e-12)
        found.setdefault(film, []).append(spans)
    best = [Span(film, *span) for film, lists in found.items() for span in _apart(lists)]
    return sorted(best, key=lambda span: -span.score)


def folded(matrix: RowMatrix, spans: list[Span], count: int) -> list[tuple[Span, int]]:
    """Return the first `count` spans that show something else than a better one, with how many were left out for it."""
    kept: list[tuple[Span, np.ndarray, int]] = []
    for span in spans:
        first = matrix.starts[span.film]
        vector = matrix.rows(first + span.start, first + span.end).mean(0)
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        alike = next((number for number, one in enumerate(kept) if float(one[1] @ vector) >= ALIKE), None)
        if alike is not None:
            kept[alike] = (*kept[alike][:2], kept[alike][2] + 1)
        elif len(kept) < count:
            kept.append((span, vector, 0))
    return [(span, others) for span, _, others in kept]


def _spans_around(
    matrix: RowMatrix, wanted: np.ndarray, film: int, top: int, reading: Reading, row_s: float
) -> tuple[tuple[int, int], np.ndarray]:
    """Return the window that was looked at, in rows of the matrix, and spans (k, 3) of rows of the film in it.

    Their score is the mean of the scores inside, no higher than that of a span that the procedure finds better.
    """
    first, last = int(matrix.starts[film]), int(matrix.starts[film + 1])
    for start, end in _windows(first, last, top, reading, row_s):
        vectors = matrix.rows(start, end)
        # The scores of all rows are rounded otherwise where they lie otherwise, and must decide no border.
        curve = vectors.astype(np.float64) @ wanted
        if (start, end) == (first, last):
            spans = find_spans(curve, row_s, reading, vectors)
        else:
            spans = reading.decoder.spans(read_curve(curve, row_s, reading, vectors), vectors)
        best = spans[0]
        cut = (best[0] == 0 and start > first) or (best[1] == end - start and end < last)
        if not cut:
            break
    kept = best_apart(spans, 0.0, SPANS_OF_FILM)
    sums = np.concatenate([[0.0], np.cumsum(curve)])
    begins, ends = kept[:, :2].astype(np.int64).T
    means = np.minimum.accumulate((sums[ends] - sums[begins]) / (ends - begins))
    return (start, end), np.stack([begins + start - first, ends + start - first, means], axis=1)


def _windows(first: int, last: int, top: int, reading: Reading, row_s: float) -> Iterator[tuple[int, int]]:
    """Yield what to look at around a row: a whole short film, else windows, each twice the one before."""
    if (last - first) * row_s <= reading.whole_s:
        yield first, last
        return
    size = round(reading.window_s / row_s)
    while True:
        start = min(max(first, top - size // 2), max(first, last - size))
        yield start, min(last, start + size)
        if size * row_s >= LARGEST_WINDOW_S or size >= last - first:
            return
        size *= 2


def _apart(lists: list[np.ndarray]) -> list[tuple[int, int, float]]:
    spans = np.concatenate(lists)
    return [(int(a), int(b), float(c)) for a, b, c in best_apart(spans, APART, len(spans))]
