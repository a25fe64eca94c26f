"""Evaluation protocols: how windows are post-processed and which figures are computed.

The published protocols round windows to the clip grid of their features; ours do not (`published=False`)
and clamp windows to the video instead of to a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mesm.pipeline.config.errors import ConfigError

AP_THRESHOLDS: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True)
class LengthRange:
    """Ground-truth moments with low_s < length <= high_s, in seconds."""

    name: str
    low_s: float
    high_s: float


SHORT, MIDDLE, LONG = LengthRange("short", 0, 10), LengthRange("middle", 10, 30), LengthRange("long", 30, 150)
SUPERLONG = LengthRange("superlong", 150, 600)


@dataclass(frozen=True)
class Protocol:
    """Everything that decides about a figure besides predictions and truth."""

    name: str
    r1_thresholds: tuple[float, ...] = (0.3, *AP_THRESHOLDS)
    """IoU that the first window must reach."""
    ranks: tuple[int, ...] = ()
    """Rank@n: how many of the first windows are asked whether any has an IoU above a threshold (strictly)."""
    rank_thresholds: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)
    ap_thresholds: tuple[float, ...] = AP_THRESHOLDS
    """IoU thresholds of average precision; their mean is the average mAP."""
    length_ranges: tuple[LengthRange, ...] = (SHORT, MIDDLE, LONG)
    """Scored in addition to all moments together (`full`)."""
    rounding_s: float | None = None
    """Windows are rounded to multiples of this many seconds; None: they are not."""
    max_s: float | None = None
    """Windows are clamped to [0, max_s]; None: to [0, duration of the video]."""
    clamps: bool = True
    """False: windows stay what they are, and may reach beyond the video."""
    nms_iou: float | None = None
    """A window that overlaps a better one by more than this IoU is dropped; None: all are kept."""
    max_windows: int = 10
    """Windows of a query that count for average precision."""


PUBLISHED: Mapping[str, Protocol] = {
    "charades": Protocol("charades", max_s=150),
    "tacos": Protocol(
        "tacos", (0.1, 0.3, 0.5, 0.7), ranks=(1, 5), length_ranges=(SHORT, MIDDLE, LONG, SUPERLONG), max_s=1000
    ),
    "activitynet": Protocol("activitynet", ranks=(1, 5), length_ranges=(SHORT, MIDDLE, LONG, SUPERLONG), clamps=False),
    "qvhighlights": Protocol("qvhighlights", max_s=150),
}
"""What was published for each family of datasets; the rounding follows the features' clip length."""


def find_protocol(family: str, *, published: bool = False, clip_len_s: float | None = None) -> Protocol:
    """Return the protocol of a family of datasets: charades, tacos, activitynet or qvhighlights.

    `published` adds the published clamping (ActivityNet Captions: none) and, where the published code rounds (neither
    TACoS nor ActivityNet Captions), rounding to multiples of `clip_len_s`. Raises ConfigError for an unknown family, or
    when the clip length is needed and absent.
    """
    if family not in PUBLISHED:
        raise ConfigError(f"unknown evaluation protocol {family!r}; expected one of: {', '.join(PUBLISHED)}")
    protocol = PUBLISHED[family]
    if not published:
        return replace(protocol, max_s=None, clamps=True)
    rounds = family not in ("tacos", "activitynet")
    rounding_s = clip_len_s if rounds else None
    if rounds and (clip_len_s is None or clip_len_s <= 0):
        raise ConfigError(
            f"the published protocol of {family} rounds windows to the clip grid: "
            f"found clip_len_s = {clip_len_s}, expected the seconds that one row of features stands for"
        )
    return replace(protocol, name=f"{family} (published)", rounding_s=rounding_s)
