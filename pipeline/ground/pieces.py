"""Long videos are searched in overlapping pieces, whose answers are merged."""

from __future__ import annotations

import numpy as np

from mesm.datasets.targets import prepare_video
from mesm.pipeline.config.schema import Config
from mesm.pipeline.evaluate.postprocessing import non_maximum_suppression
from mesm.pipeline.ground.answers import EncodedVideo

OVERLAP = 0.5
"""Share of a piece that the next one of a long video repeats: a moment shorter than this lies whole in one of them."""


MERGE_IOU = 0.7
"""Answers of different pieces that overlap by more than this are one answer."""


PIECES_PER_BATCH = 32


SHORTEST_MOMENT_S = 0.01


def cut_pieces(video: EncodedVideo, config: Config) -> list[tuple[int, int, np.ndarray]]:
    """Cut a video into overlapping pieces of at most `max_rows` rows: first row, rows, and the network's input."""
    size, rows = config.dataset.max_rows, video.rows
    if rows <= size:
        starts = [0]
    else:
        step = max(1, int(size * (1 - OVERLAP)))
        starts = [*range(0, rows - size, step), rows - size]
    pieces = []
    for start in starts:
        streams = [stream[start : min(start + size, rows)] for stream in video.streams]
        pieces.append((start, len(streams[0]), prepare_video(streams, size, config.dataset.rows)))
    return pieces


def merge_windows(windows: np.ndarray, duration_s: float, single: bool) -> np.ndarray:
    """Sort windows (n, 3) by score, keep them inside the video, and drop repeats of different pieces."""
    windows = windows[np.argsort(-windows[:, 2], kind="stable")]
    windows[:, :2] = windows[:, :2].clip(0, duration_s)
    windows = windows[windows[:, 1] - windows[:, 0] >= SHORTEST_MOMENT_S]
    if single or not len(windows):
        return windows
    return windows[non_maximum_suppression(windows[None], MERGE_IOU)[0]]


def windows_within(fractions: np.ndarray, scores: np.ndarray, offset_s: float, length_s: float) -> np.ndarray:
    """Turn windows (K, 2) in fractions of a piece that begins at `offset_s` into seconds, with their scores: (K, 3)."""
    return np.concatenate([fractions.clip(0, 1) * length_s + offset_s, scores[:, None]], axis=1)


def stretch(values: np.ndarray, rows: int) -> np.ndarray:
    """Spread the scores of pooled rows over the rows that they were pooled from."""
    return values[(np.arange(rows) * len(values)) // rows]
