"""Pictures of a video along its time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mesm.extractors.contracts import FrameTransform
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.resizing import apply_transform
from mesm.extractors.decoding.streams import open_stream

THUMBNAILS = 12
THUMBNAIL_HEIGHT = 90


def thumbnails(path: Path, count: int = THUMBNAILS) -> list[tuple[float, np.ndarray]]:
    """Return (seconds, (height, width, 3) uint8) pictures, evenly spread over a video's time."""
    info = probe(path)
    seconds = info.timestamps * float(info.time_base)
    times = seconds[0] + (np.arange(count) + 0.5) / count * info.duration_s
    wanted = np.unique(np.searchsorted(seconds, times, side="right") - 1).tolist()
    height = min(THUMBNAIL_HEIGHT, info.height)
    size = (height, max(1, round(info.width * height / info.height)))
    transform = FrameTransform("device", short_side=None, exact=size, crop=size)
    pictures = []
    with open_stream(info) as stream:
        for number, picture in stream.pictures(wanted):
            if picture is not None:
                rgb = torch.from_numpy(picture.rgb())[None]
                pictures.append((float(seconds[number]), apply_transform(rgb, transform)[0].numpy()))
    return pictures
