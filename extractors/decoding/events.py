"""What a pool of decode processes is asked for, and what it tells of its videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mesm.extractors.contracts import FrameTransform, VideoInfo
from mesm.extractors.decoding.source_file import SourceFile
from mesm.extractors.errors import VideoError


@dataclass(frozen=True)
class FrameOutput:
    """Which frames to hand back, and how."""

    transform: FrameTransform | None
    """Applied while decoding; None hands back full frames at display size."""
    wanted: np.ndarray
    """(n,) int64 frame numbers, ascending and distinct."""


@dataclass(frozen=True)
class Probed:
    """A video was measured; it waits for `DecodePool.decode` or `DecodePool.dismiss`."""

    job: int
    info: VideoInfo
    source: SourceFile


@dataclass(frozen=True)
class DecodedFrame:
    """One frame of one output."""

    job: int
    output: int
    number: int
    pixels: np.ndarray
    """(height, width, 3) uint8 RGB, a view into shared memory: copy what must outlive the next event."""


@dataclass(frozen=True)
class Finished:
    """All frames of a video were handed back, and its file did not change meanwhile."""

    job: int
    decoder: str
    missing: int
    """Frames that could not be decoded and show the picture before."""


@dataclass(frozen=True)
class Restarted:
    """What was handed back of this video is void: decord failed, and PyAV begins again with `Probed`."""

    job: int


@dataclass(frozen=True)
class Failed:
    """A video cannot be decoded."""

    job: int
    error: VideoError


Event = Probed | DecodedFrame | Finished | Restarted | Failed
