"""A few small pictures of a video, spread over its length, for report pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mesm.extractors.probing import probe
from mesm.extractors.streams import open_stream
from mesm.pipeline.report_page import shrink


def read_thumbnails(path: Path, count: int = 12) -> list[tuple[float, np.ndarray]]:
    """Read the frames at the middle of `count` equal parts of a video: (time s, (height, width, 3) uint8 RGB).

    Short videos may give fewer. Raises the errors of `probe` and `open_stream` when the file cannot be read.
    """
    info = probe(path)
    times = info.timestamps * float(info.time_base)
    centres = (np.arange(count) + 0.5) * info.duration_s / count
    wanted = set((np.searchsorted(times, centres, side="right") - 1).tolist())
    thumbnails = []
    with open_stream(info) as stream:
        for number, picture in stream.pictures(wanted):
            if number in wanted and picture is not None:
                thumbnails.append((float(times[number]), shrink(picture.rgb())))
    return thumbnails
