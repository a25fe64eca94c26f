"""Small networks and videos that the tests of the encoders share."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.extractors.contracts import VideoInfo

TINY_CLIP: dict[str, Any] = {
    "architecture": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"width": 32, "heads": 2, "layers": 1},
    }
}


def video(frames: int, fps: int = 30) -> VideoInfo:
    """Describe a video of constant frame rate; there is no file behind it."""
    return VideoInfo(
        path=Path("video.mp4"),
        width=640,
        height=360,
        fps=Fraction(fps),
        duration_s=frames / fps,
        timestamps=np.arange(frames, dtype=np.int64),
        time_base=Fraction(1, fps),
        codec="h264",
        container="mp4",
        rotation=0,
        decoder="pyav",
    )


def random_clips(batch: int, frames: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Make (batch, frames, height, width, 3) uint8 clips."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, frames, *size, 3), dtype=torch.uint8, generator=generator)
