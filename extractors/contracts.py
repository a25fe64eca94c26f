"""What decoding, encoders and the extract stage agree on.

A video encoder never sees a file. It is told what a video looks like (`VideoInfo`), answers which frames make each of
its rows and at what size it wants them (`FramePlan`), and later encodes batches of such clips. Frames are decoded once
for all encoders of a run, so a plan speaks of frame numbers in presentation order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch

ResizeMode = Literal["device", "swscale", "pil", "none"]
Smoothing = Literal["bicubic", "bilinear"]
SamplingMode = Literal["clean", "parity"]

READING_RULE = 1
"""Version of the rules by which files are read: it grows when some files' pictures or times are read otherwise.

Rule 1: seconds count from the container's start, not from the first picture; mirrors, and one track of several, are
shown as a player shows them.
"""


@dataclass(frozen=True)
class VideoInfo:
    """What probing found out about one video file, measured from its packets rather than read from its header."""

    path: Path
    width: int
    """Pixels, as displayed: after rotation and with square pixels."""
    height: int
    fps: Fraction
    """Average frame rate: frames per second between the first and the last presentation time."""
    duration_s: float
    """From the file's start, as a player shows it, to the last frame's end."""
    timestamps: np.ndarray
    """(n,) int64, presentation times in ticks of `time_base`, ascending, the first one is 0."""
    time_base: Fraction
    """Seconds per tick."""
    codec: str
    container: str
    rotation: int
    """Degrees to turn the coded picture counter-clockwise for display: 0, 90, 180 or 270."""
    decoder: str
    """`decord` or `pyav`: which one will decode this file."""
    start_s: Fraction = Fraction(0)
    """From the file's start to the first frame: what begins earlier is sound, say."""
    origin: int = 0
    """The first frame's presentation time as the file states it, in ticks of `time_base`."""
    track: int | None = None
    """Index of the stream that holds the pictures; None for a video that is no file."""
    upright: tuple[tuple[str, str], ...] = ()
    """ffmpeg filters (name, arguments) that crop, turn and mirror the decoded picture for display."""
    lost: int = 0
    """Frames that the file announces and does not hold."""
    rule: int = 0
    """The first version of the reading rules (`READING_RULE`) that reads this file as it is read now."""

    @property
    def frame_count(self) -> int:
        """Number of frames that have a presentation time."""
        return len(self.timestamps)


@dataclass(frozen=True)
class FrameTransform:
    """From a decoded frame to the encoder's input: scale, then crop at the centre; uint8 RGB in and out."""

    resize: ResizeMode
    short_side: int | None
    """Pixels of the shorter side after scaling, the aspect kept; None when `exact` is given."""
    exact: tuple[int, int] | None
    """(height, width) after scaling, whatever the aspect."""
    crop: tuple[int, int]
    """(height, width) of the centre crop."""
    smoothing: Smoothing = "bicubic"
    """Filter of the scaling; `swscale` has the bicubic one alone."""


@dataclass(frozen=True)
class FramePlan:
    """The frames of each row: frame numbers in presentation order, and what to do with each frame."""

    frames: np.ndarray
    """(rows, frames per row) int64; ascending within a row, repeats allowed; rows sorted by their first frame."""
    transform: FrameTransform


@runtime_checkable
class VideoEncoder(Protocol):
    """Turns clips of frames into feature rows."""

    name: str
    dim: int
    clip_len_s: float
    """Seconds of video that one row stands for."""
    spec: Mapping[str, Any]
    """Everything that changes a number, JSON-serialisable: weights and their sha256, preprocessing, sampling, dtype."""

    def plan(self, info: VideoInfo) -> FramePlan:
        """Say which frames make each row of this video."""

    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        """Encode (B, frames per row, height, width, 3) uint8 RGB clips, on any device, to (B, dim) float32."""


@dataclass(frozen=True)
class TextFeatures:
    """One sentence, encoded."""

    tokens: np.ndarray
    """(words, dim) float32: token states, padding cut off."""
    token_ids: np.ndarray
    """(words,) int64, in the encoder's vocabulary."""
    pooled: np.ndarray | None
    """(pooled dim,) float32 sentence vector in the space of the image encoder, when the encoder has one."""
    cut: bool = False
    """The sentence was longer than the encoder reads, and its end was left out."""


@runtime_checkable
class TextEncoder(Protocol):
    """Turns sentences into token features."""

    name: str
    dim: int
    spec: Mapping[str, Any]

    def encode(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences; a sentence longer than the encoder's context is cut, as the encoder documents."""


@runtime_checkable
class SentenceEncoder(TextEncoder, Protocol):
    """A text encoder whose `pooled` vectors lie in the space of an image encoder of the same model."""

    max_tokens: int
    """Tokens that it reads; what is longer is cut."""
    special_tokens: int
    """How many of these are not of the sentence, such as those of its start and its end."""
