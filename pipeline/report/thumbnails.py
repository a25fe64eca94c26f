"""Pictures of a video along its time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mesm.extractors.contracts import FrameTransform, VideoInfo
from mesm.extractors.decoding.events import DecodedFrame, Failed, FrameOutput, Probed, Restarted
from mesm.extractors.decoding.pool import DecodePool

THUMBNAILS = 12
THUMBNAIL_HEIGHT = 90


def thumbnails(path: Path, count: int = THUMBNAILS, timeout_s: float = 60.0) -> list[tuple[float, np.ndarray]]:
    """Return (seconds, (height, width, 3) uint8) pictures, evenly spread over a video's time.

    Another process decodes them, which may crash or hang. Raises VideoError when the file cannot be read, or no
    frame comes for `timeout_s`.
    """
    pictures: dict[int, np.ndarray] = {}
    seconds = np.zeros(0)
    with DecodePool(workers=1, timeout_s=timeout_s) as pool:
        pool.start(0, path)
        while pool.busy:
            match pool.next_event():
                case Probed() as probed:
                    seconds = _seconds(probed.info)
                    pool.decode(probed, [FrameOutput(_small(probed.info), _spread(probed.info, seconds, count))])
                case DecodedFrame(_, _, number, pixels):
                    pictures[number] = pixels.copy()
                case Restarted():
                    pictures.clear()
                case Failed(_, error):
                    raise error
    return [(float(seconds[number]), picture) for number, picture in sorted(pictures.items())]


def _seconds(info: VideoInfo) -> np.ndarray:
    """Return the (n,) times of the frames, counted from the file's start."""
    return float(info.start_s) + info.timestamps * float(info.time_base)


def _spread(info: VideoInfo, seconds: np.ndarray, count: int) -> np.ndarray:
    """Return the numbers of the frames that are shown at evenly spread times; before the first one, that is shown."""
    times = (np.arange(count) + 0.5) / count * info.duration_s
    return np.unique(np.maximum(np.searchsorted(seconds, times, side="right") - 1, 0))


def _small(info: VideoInfo) -> FrameTransform:
    height = min(THUMBNAIL_HEIGHT, info.height)
    size = (height, max(1, round(info.width * height / info.height)))
    return FrameTransform("device", short_side=None, exact=size, crop=size)
