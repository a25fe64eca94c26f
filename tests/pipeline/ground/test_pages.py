"""Pictures for a page are spread over a video's time, whatever its frame rate does."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mesm.pipeline.report.thumbnails import thumbnails


def write_with_times(path: Path, times_ms: list[int]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 10 * number % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_pictures_are_spread_over_time_not_over_frames(tmp_path: Path) -> None:
    times = [*range(0, 1000, 40), *range(1000, 9001, 500)]
    pictures = thumbnails(write_with_times(tmp_path / "uneven.mp4", times), count=4)
    found = [seconds for seconds, _ in pictures]
    assert np.allclose(found, [1.0, 3.0, 5.5, 8.0], atol=0.51)
    assert len(pictures) == 4
    assert pictures[0][1].shape == (64, 96, 3)


def test_a_short_video_has_fewer_pictures(tmp_path: Path) -> None:
    pictures = thumbnails(write_with_times(tmp_path / "short.mp4", [0, 40, 80]), count=12)
    assert [round(seconds, 2) for seconds, _ in pictures] == [0.0, 0.04, 0.08]
