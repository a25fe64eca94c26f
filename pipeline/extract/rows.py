"""Put the frames of one video together into the clips of one encoder, as they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from mesm.datasets.shards.folder import row_count_problem
from mesm.extractors.contracts import FramePlan, VideoInfo
from mesm.extractors.decoding.resizing import scaled_size
from mesm.extractors.errors import EncoderError

_SHORT_VIDEO_SLACK_S = 0.1


class Planner(Protocol):
    """Says which frames of a video are wanted."""

    name: str
    clip_len_s: float

    def plan(self, info: VideoInfo) -> FramePlan:
        """Say which frames make each row of this video."""


class RowAssembler:
    """Takes frames in ascending order and gives clips in row order, keeping only frames that rows still need."""

    def __init__(self, plan: FramePlan) -> None:
        self._rows = plan.frames
        self._last_frame = np.maximum.accumulate(plan.frames.max(axis=1))
        numbers, uses = np.unique(plan.frames, return_counts=True)
        self._uses = dict(zip(numbers.tolist(), uses.tolist(), strict=True))
        self._frames: dict[int, torch.Tensor] = {}
        self._next = 0

    @property
    def held(self) -> int:
        """Number of frames in memory."""
        return len(self._frames)

    def needs(self, number: int) -> bool:
        """Tell whether any row shows this frame."""
        return number in self._uses

    def add(self, number: int, frame: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        """Take one (h, w, 3) frame; yield the frames of each row that it completes."""
        self._frames[number] = frame
        while self._next < len(self._rows) and self._last_frame[self._next] <= number:
            row = self._rows[self._next].tolist()
            self._next += 1
            yield [self._frames[shown] for shown in row]
            for shown in row:
                self._uses[shown] -= 1
                if not self._uses[shown]:
                    del self._frames[shown], self._uses[shown]


def checked_plan(encoder: Planner, info: VideoInfo) -> FramePlan:
    """Return the encoder's plan for a video; EncoderError when it cannot be followed or has the wrong length."""
    plan = encoder.plan(info)
    frames = plan.frames
    if frames.ndim != 2 or not frames.size or frames.min() < 0 or frames.max() >= info.frame_count:
        raise EncoderError(
            f"{encoder.name} asks for frames of shape {frames.shape} from a video of {info.frame_count} frames"
        )
    scaled_size(info.height, info.width, plan.transform)
    row_seconds(len(frames), encoder.clip_len_s, info.duration_s)
    return plan


def row_seconds(rows: int, clip_len_s: float, duration_s: float) -> float:
    """Return the seconds that each row stands for: the clip length, or less in a video hardly longer than a clip.

    Raises EncoderError when rows times clip length and the duration differ by more than one clip otherwise:
    then the features of another clip length would be taken for these.
    """
    problem = row_count_problem(rows, clip_len_s, duration_s, slack_s=0)
    if problem is None:
        return clip_len_s
    if duration_s < clip_len_s + _SHORT_VIDEO_SLACK_S:
        # The published CLIP features give such a video two rows, however short it is.
        return duration_s / rows
    raise EncoderError(problem)
