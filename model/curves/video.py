"""Moments of a video of any length from its row vectors and a sentence's vector.

Borders are local, ranks are global. A long video is decoded in overlapping windows, each with its own rows as what is
outside; then every span is scored by one rule for the whole video, since every window has a best contrast. Memory grows
with the rows times the rows of a window.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from mesm.model.curves.decoders import DEFAULT, Decoder, make_decoder
from mesm.model.curves.spans import best_apart, blocks, means, normalised, runs, scored, smooth, standardise
from mesm.model.curves.statistical import Path, likeliest_path

SMOOTHED_S = 5.0
"""Seconds over which a curve is averaged, whatever is seen."""
ALIKE_S = 6.0
"""Seconds on either side from which a row takes the values of rows that look like it."""
ALIKE = 0.5
"""Difference of cosines by which a row counts e times less."""
WHOLE_S = 150.0
"""Videos up to this length are decoded in one window."""
WINDOW_S = 60.0
"""Window of longer ones; the next begins half a window later, so that a moment of half a window lies whole in one."""
APART = 0.5
"""IoU above which the worse of two spans of different windows is dropped."""
WHOLE_SHARE = 0.8
"""A moment longer than half a window replaces spans within it that score up to 1 / 0.8 of its score."""


@dataclass(frozen=True)
class Reading:
    """How a curve is read; the constants of one procedure and those common to all."""

    decoder: Decoder
    smoothed_s: float = SMOOTHED_S
    alike_s: float = ALIKE_S
    alike: float = ALIKE
    whole_s: float = WHOLE_S
    window_s: float = WINDOW_S

    def record(self) -> dict[str, float]:
        """Return every constant by its name, those of the procedure first."""
        own: dict[str, float] = dataclasses.asdict(self.decoder)  # type: ignore[call-overload]
        common = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "decoder"}
        return {**own, **common}


def default_reading() -> Reading:
    """Return the procedure that answers without a checkpoint."""
    return Reading(make_decoder(DEFAULT))


def similarity(vectors: np.ndarray, sentence: np.ndarray, generic: np.ndarray) -> np.ndarray:
    """Return how much each row fits a sentence more than it fits anything, (n,).

    vectors (n, D) of the rows; sentence (D,); generic (D,), the mean of the normalised vectors of sentences that fit
    any picture. The dot product of the normalised row, less the mean of all rows, and the normalised sentence less
    `generic`: what is in every picture, or said of any, cannot win.
    """
    return similarities(vectors, sentence[None], generic)[0]


def similarities(vectors: np.ndarray, sentences: np.ndarray, generic: np.ndarray) -> np.ndarray:
    """Return the curves of several sentences (m, D), see `similarity`: (m, n)."""
    wanted = normalised(np.asarray(sentences, np.float64), 1e-12) - generic
    curves, total = np.empty((len(wanted), len(vectors))), np.zeros(vectors.shape[1])
    for part in blocks(len(vectors)):
        rows = normalised(np.asarray(vectors[part], np.float64), 1e-12)
        curves[:, part] = wanted @ rows.T
        total += rows.sum(0)
    return curves - (wanted @ total / len(vectors))[:, None]


def stands_out(curves: np.ndarray, rows: int) -> np.ndarray:
    """Return of each curve (m, n) by how much the best of all spans of so many rows exceeds what is left of it, (m,).

    0 where the span is the whole curve: nothing is left then.
    """
    count = curves.shape[1]
    if rows >= count:
        return np.zeros(len(curves))
    sums = np.pad(np.cumsum(curves, axis=1), ((0, 0), (1, 0)))
    inside = (sums[:, rows:] - sums[:, :-rows]).max(1)
    best: np.ndarray = inside / rows - (sums[:, -1] - inside) / (count - rows)
    return best


def mean_row(vectors: np.ndarray) -> np.ndarray:
    """Return the mean (D,) float64 of the normalised rows of vectors (n, D)."""
    total = np.zeros(vectors.shape[1])
    for part in blocks(len(vectors)):
        total += normalised(np.asarray(vectors[part], np.float64), 1e-12).sum(0)
    return total / max(len(vectors), 1)


def share_among_alike(curve: np.ndarray, vectors: np.ndarray, reach: int, alike: float) -> np.ndarray:
    """Average a curve (n,) over the `reach` rows on either side, those the more that look like the row.

    vectors (n, D): a row counts with exp(cosine / `alike`), the cosine of what both have beyond the video's mean. Noise
    goes, and borders at which the picture changes stay (a bilateral filter).
    """
    count, reach = len(curve), min(reach, len(curve) - 1)
    mean = np.zeros(vectors.shape[1])
    for part in blocks(count):
        mean += normalised(np.asarray(vectors[part], np.float64), 1e-12).sum(0) / count
    weights, total = np.zeros(count), np.zeros(count)
    for part in blocks(count):
        # The rows after the block, with which its last ones are paired, come with it.
        rows = normalised(np.asarray(vectors[part.start : part.stop + reach], np.float32), 1e-12)
        rows = normalised(rows - mean.astype(np.float32), 1e-6)
        size = part.stop - part.start
        for step in range(reach + 1):
            pairs = max(0, min(size, len(rows) - step))
            here = slice(part.start, part.start + pairs)
            there = slice(here.start + step, here.stop + step)
            weight = np.exp((rows[:pairs] * rows[step : step + pairs]).sum(1, dtype=np.float64) / alike)
            total[here] += weight * curve[there]
            weights[here] += weight
            if step:
                total[there] += weight * curve[here]
                weights[there] += weight
    return total / weights


def find_spans(curve: np.ndarray, row_s: float, reading: Reading, vectors: np.ndarray | None = None) -> np.ndarray:
    """Read spans (k, 3) of rows from a curve (n,) of similarities, best first: start, end, score.

    row_s: seconds of a row; vectors (n, D): of the rows, so that rows that look alike are taken together. The unit and
    the zero of the similarities do not matter. In a video up to `whole_s` the score is the procedure's own, in a longer
    one the mean of the standardised curve inside the span.
    """
    smoothed = read_curve(curve, row_s, reading, vectors)
    rows = len(smoothed)
    if rows * row_s <= reading.whole_s:
        return reading.decoder.spans(smoothed, vectors)
    size = max(2, round(reading.window_s / row_s))
    found = []
    for start in window_starts(rows, size):
        part = slice(start, start + size)
        spans = reading.decoder.spans(standardise(smoothed[part]), None if vectors is None else vectors[part])
        # What overlaps a better span of the same window is a part or a neighbour of it, and could have a higher mean.
        spans = best_apart(spans, 0.0, len(spans))[:, :2] + start
        found.append(spans[~_cut(spans, start, size, rows)])
    starts, ends = np.concatenate(found).astype(np.int64).T
    spans = with_long_moments(scored(starts, ends, means(smoothed, starts, ends)), smoothed, size // 2)
    return best_apart(spans, APART, len(spans))


def read_curve(curve: np.ndarray, row_s: float, reading: Reading, vectors: np.ndarray | None = None) -> np.ndarray:
    """Return the curve (n,) that procedures read: without the noise of single rows, standardised."""
    values = standardise(curve)
    if vectors is not None:
        values = share_among_alike(values, vectors, round(reading.alike_s / row_s), reading.alike)
    return standardise(smooth(values, max(0, round((reading.smoothed_s / row_s - 1) / 2))))


def window_starts(rows: int, size: int) -> list[int]:
    """Return where windows of `size` rows begin: half a window apart, the last one at the end."""
    return [*range(0, rows - size, max(1, size // 2)), rows - size]


def _cut(spans: np.ndarray, start: int, size: int, rows: int) -> np.ndarray:
    """Mark spans at a border of their window that lie, with what is beyond it, whole in the window beside it."""
    at_border = ((spans[:, 0] == start) & (start > 0)) | ((spans[:, 1] == start + size) & (start + size < rows))
    return at_border & (spans[:, 1] - spans[:, 0] <= size // 2)


def with_long_moments(spans: np.ndarray, curve: np.ndarray, longest_whole: int) -> np.ndarray:
    """Add moments longer than `longest_whole` rows, which windows may not hold, to spans (k, 3): runs of the path.

    Spans that lie in such a run by half or more, and score little more than it, are parts of it and are dropped.
    """
    _, starts, ends = runs(likeliest_path(2 * Path.separation * curve, Path.stay)[None])
    long = ends - starts > longest_whole
    if not long.any():
        return spans
    whole = scored(starts[long], ends[long], means(curve, starts[long], ends[long]))
    shared = np.minimum(spans[:, None, 1], whole[:, 1]) - np.maximum(spans[:, None, 0], whole[:, 0])
    inside = 2 * shared >= (spans[:, 1] - spans[:, 0])[:, None]
    parts = (inside & (WHOLE_SHARE * spans[:, None, 2] <= whole[:, 2])).any(1)
    return np.concatenate([whole, spans[~parts]])


def in_seconds(spans: np.ndarray, row_s: float, duration_s: float, offset: float = 0.0) -> np.ndarray:
    """Turn spans (k, 3) of rows into seconds within the video; empty ones are dropped.

    offset: where row 0 begins, in rows: 0 where a row is the picture at the centre of its time, -0.5 where it is the
    one at its beginning.
    """
    windows = spans.copy()
    windows[:, :2] = ((windows[:, :2] + offset) * row_s).clip(0.0, duration_s)
    return windows[windows[:, 1] > windows[:, 0]]
