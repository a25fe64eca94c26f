"""From what the network says to windows in seconds: by duration, sorted, rounded, clamped, thinned out.

Order and constants are those of the published evaluation (MESM, PostProcessorDETR of Moment-DETR): score
order, four decimals, clamping, rounding to the clip grid, non-maximum suppression; the last two only when
the protocol says so.
"""

from __future__ import annotations

import numpy as np

from mesm.pipeline.evaluate.protocols import Protocol

DECIMALS = 4


def windows_in_seconds(
    fractions: np.ndarray,
    scores: np.ndarray,
    durations_s: np.ndarray,
    protocol: Protocol,
    counts: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Turn a network's answers into post-processed windows.

    fractions (N, M, 2) float64: start and end in fractions of the duration; scores (N, M); durations_s (N,) seconds;
    counts (N,): how many of each query's, the leading ones, are answers, None: all. Returns N arrays (at most M, 3)
    float64: start s, end s, score, best first.
    """
    bounds = fractions * np.asarray(durations_s)[:, None, None]
    windows = np.concatenate([bounds, np.asarray(scores, np.float64)[..., None]], axis=-1)
    if counts is None or (counts == windows.shape[1]).all():
        return postprocess_windows(windows, durations_s, protocol)
    parts = zip(windows, counts.tolist(), durations_s, strict=True)
    return [postprocess_windows(own[None, :count], np.array([s]), protocol)[0] for own, count, s in parts]


def postprocess_windows(windows: np.ndarray, durations_s: np.ndarray, protocol: Protocol) -> list[np.ndarray]:
    """Sort, round, clamp and thin out windows (N, M, 3) of start s, end s and score."""
    windows = np.round(_sorted_by_score(windows), DECIMALS)
    limit = np.asarray(durations_s) if protocol.max_s is None else np.full(len(windows), protocol.max_s)
    bounds = np.clip(windows[..., :2], 0, limit[:, None, None]) if protocol.clamps else windows[..., :2]
    if protocol.rounding_s is not None:
        bounds = round_to_grid(bounds, protocol.rounding_s)
    windows = np.concatenate([np.round(bounds, DECIMALS), windows[..., 2:]], axis=-1)
    if protocol.nms_iou is None:
        return list(windows)
    kept = non_maximum_suppression(windows, protocol.nms_iou)
    return [rows[keep] for rows, keep in zip(windows, kept, strict=True)]


def round_to_grid(seconds: np.ndarray, step_s: float) -> np.ndarray:
    """Round to the nearest multiple of `step_s`, halves to the even one, in float32 as the published code."""
    step = np.float32(step_s)
    return (np.round(seconds.astype(np.float32) / step) * step).astype(np.float64)


def non_maximum_suppression(windows: np.ndarray, threshold: float) -> np.ndarray:
    """Mark the windows to keep: (N, M, 3), best first -> (N, M) bool.

    A window is dropped when its IoU with a better one that is kept exceeds `threshold`.
    """
    keep = np.ones(windows.shape[:2], dtype=bool)
    for best in range(windows.shape[1] - 1):
        rest = slice(best + 1, None)
        overlap = temporal_iou(windows[:, best : best + 1, :2], windows[:, rest, :2])
        keep[:, rest] &= ~(keep[:, best : best + 1] & (overlap > threshold))
    return keep


def temporal_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of windows (..., 2) and (..., 2) in seconds, broadcast against each other.

    Windows that do not overlap have 0, also when both are empty or turned around.
    """
    starts, ends = one[..., 0], one[..., 1]
    other_starts, other_ends = other[..., 0], other[..., 1]
    overlap = np.maximum(np.minimum(ends, other_ends) - np.maximum(starts, other_starts), 0)
    # The sum of lengths, not the hull: an IoU of exactly 0.9 then rounds as in the published code.
    union = (ends - starts) + (other_ends - other_starts) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


def _sorted_by_score(windows: np.ndarray) -> np.ndarray:
    """Best score first; equal scores keep their order."""
    order = np.argsort(-windows[..., 2], axis=1, kind="stable")
    return np.take_along_axis(windows, order[..., None], axis=1)
