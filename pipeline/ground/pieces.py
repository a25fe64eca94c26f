"""Long videos are searched in overlapping pieces, whose answers are merged.

Every window is the answer of one piece alone, by where its centre lies: of pieces that overlap by half, that one shows
a moment of up to half a piece whole, and what a border of the other one cuts off it never becomes an answer. Longer
moments may be cut by every piece: their parts are joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mesm.datasets.targets import prepare_video
from mesm.pipeline.config.schema import Config
from mesm.pipeline.evaluate.postprocessing import non_maximum_suppression
from mesm.pipeline.ground.answers import EncodedVideo

OVERLAP = 0.5
"""Share of a piece that the next one of a long video repeats: a moment shorter than this lies whole in one of them."""


MERGE_IOU = 0.7
"""Answers of different pieces that overlap by more than this are one answer."""


PIECES_PER_BATCH = 8
KEPT_WINDOWS = 1000
"""Best windows of a long video that are kept while it is searched."""


SHORTEST_MOMENT_S = 0.01
WHOLE = 2.0
"""Training lengths up to which a video is not cut."""
AT_BORDER = 0.04
"""Share of a piece within which a window that ends there may have been cut off."""
SALIENT = 2.0
"""How much a deviation of saliency counts beside the logarithm of a network's score."""
JOINED_SHARE = 0.5
"""A part of a long moment scores at least so much of its piece's best window."""


@dataclass(frozen=True)
class Pieces:
    """How a video is cut."""

    starts: tuple[int, ...]
    """First row of each piece."""
    size: int
    """Rows of a piece; of the only piece of a short video, all rows."""

    @classmethod
    def of(cls, rows: int, longest: int, most: int) -> Pieces:
        """Cut so many rows into pieces of `longest`, the training length; the last one ends with the video.

        A video up to `WHOLE` times that length, and of at most `most` rows, is one piece, as in evaluation.
        """
        if rows <= min(max(longest, int(WHOLE * longest)), most):
            return cls((0,), rows)
        step = max(1, int(longest * (1 - OVERLAP)))
        return cls((*range(0, rows - longest, step), rows - longest), longest)

    def batches(self) -> Iterator[range]:
        """Yield the numbers of the pieces that are answered together."""
        for first in range(0, len(self.starts), PIECES_PER_BATCH):
            yield range(first, min(first + PIECES_PER_BATCH, len(self.starts)))

    def frames(self, video: EncodedVideo, number: int, config: Config) -> np.ndarray:
        """Return the network's input (L, D) of a piece."""
        part = slice(self.starts[number], self.starts[number] + self.size)
        streams, dataset = [stream[part] for stream in video.streams], config.dataset
        return prepare_video(streams, dataset.max_rows, dataset.rows, dataset.normalise_rows)

    def windows(self, number: int, fractions: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Turn windows (K, 2) in fractions of a piece into rows, with their scores and the piece: (K, 4)."""
        rows = fractions.clip(0, 1) * self.size + self.starts[number]
        return np.column_stack([rows, scores, np.full(len(rows), number)])

    def comparable(self, windows: np.ndarray, saliency: np.ndarray) -> np.ndarray:
        """Weigh the scores of windows (n, 3) by one rule for the whole video: how salient their rows are in it, (n, 3).

        saliency: (rows,). A network trained on videos that show what is asked has a sure answer for every piece.
        """
        deviation = float(saliency.std())
        if deviation == 0.0:
            return windows
        starts = windows[:, 0].astype(np.int64).clip(0, len(saliency) - 1)
        ends = np.ceil(windows[:, 1]).astype(np.int64).clip(starts + 1, len(saliency))
        sums = np.concatenate([[0.0], np.cumsum(saliency, dtype=np.float64)])
        inside = (sums[ends] - sums[starts]) / (ends - starts)
        weighed = windows.copy()
        weighed[:, 2] = weigh(windows[:, 2], (inside - saliency.mean(dtype=np.float64)) / deviation)
        return weighed

    def settle(self, windows: np.ndarray) -> np.ndarray:
        """Keep of windows (n, 4) in rows, with score and piece, those of the pieces that answer for them: (k, 3).

        Parts of moments longer than half a piece, which no piece need show whole, are joined.
        """
        starts = np.array(self.starts, np.float64)
        borders = (starts[1:] + starts[:-1] + self.size) / 2
        long = windows[:, 1] - windows[:, 0] > OVERLAP * self.size
        answers = np.searchsorted(borders, windows[:, :2].mean(1), side="right") == windows[:, 3]
        return np.concatenate([windows[~long & answers, :3], self._joined(windows[long], windows)])

    def _joined(self, windows: np.ndarray, of_all: np.ndarray) -> np.ndarray:
        """Join each long window (n, 4) that a border cuts with the one that goes on in the next piece: (k, 3)."""
        windows = windows[np.argsort(-windows[:, 2], kind="stable")]
        piece, near = windows[:, 3].astype(np.int64), AT_BORDER * self.size
        best = np.zeros(len(self.starts))
        np.maximum.at(best, of_all[:, 3].astype(np.int64), of_all[:, 2])
        strong = windows[:, 2] >= JOINED_SHARE * best[piece]
        starts = np.array(self.starts)[piece]
        ends = _best_of_each(piece, strong & (windows[:, 1] >= starts + self.size - near))
        begins = _best_of_each(piece, strong & (windows[:, 0] <= starts + near))
        whole = np.arange(len(windows))
        for number in range(len(self.starts) - 1):
            if number in ends and number + 1 in begins:
                whole[begins[number + 1]] = whole[ends[number]]
        found, group, count = np.unique(whole, return_inverse=True, return_counts=True)
        joined = windows[found, :3]
        np.minimum.at(joined[:, 0], group, windows[:, 0])
        np.maximum.at(joined[:, 1], group, windows[:, 1])
        joined[:, 2] = np.bincount(group, windows[:, 2], len(found)) / count
        return joined


def weigh(scores: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """Return scores (n,) by which windows of different pieces, or films, are ranked: between 0 and 1.

    salient: (n,), the mean saliency inside each window, standardised over all rows that were looked at. The result is
    the logistic of log(score) + 2 salient: an answer that is one deviation more salient may be 7 times less sure.
    """
    with np.errstate(divide="ignore"):
        odds = np.log(scores) + SALIENT * salient
    return np.asarray(1 / (1 + np.exp(-odds.clip(-700, 700))))


def _best_of_each(piece: np.ndarray, wanted: np.ndarray) -> dict[int, int]:
    """Return the first window of each piece among those that are wanted, by piece."""
    places = np.flatnonzero(wanted)
    pieces, first = np.unique(piece[places], return_index=True)
    return dict(zip(pieces.tolist(), places[first].tolist(), strict=True))


def best_windows(windows: np.ndarray) -> np.ndarray:
    """Return the `KEPT_WINDOWS` best of windows (n, 3 or 4), best first."""
    return windows[np.argsort(-windows[:, 2], kind="stable")[:KEPT_WINDOWS]]


def merge_windows(windows: np.ndarray, duration_s: float) -> np.ndarray:
    """Sort windows (n, 3) in seconds by score, keep them inside the video, and drop repeats of different pieces."""
    windows = best_windows(windows)
    windows[:, :2] = windows[:, :2].clip(0, duration_s)
    windows = windows[windows[:, 1] - windows[:, 0] >= SHORTEST_MOMENT_S]
    return windows[non_maximum_suppression(windows[None], MERGE_IOU)[0]] if len(windows) else windows


def stretch(values: np.ndarray, rows: int) -> np.ndarray:
    """Spread the scores of pooled rows over the rows that they were pooled from."""
    return values[(np.arange(rows) * len(values)) // rows]
