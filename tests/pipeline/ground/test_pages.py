"""What a page shows of an answer: pictures spread over the video's time, and the overlap with the truth."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mesm.pipeline.ground.answers import EncodedVideo, GroundingResult, Moment
from mesm.pipeline.ground.page import grounding_figure
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


@pytest.mark.parametrize(
    ("moments", "truth", "overlap"),
    [
        ([Moment(10.0, 20.0, 0.9), Moment(0.0, 1.0, 0.1)], [(0.0, 1.0), (12.0, 20.0)], 0.8),
        ([Moment(10.0, 20.0, 0.9)], [(30.0, 35.0)], 0.0),
        ([Moment(10.0, 20.0, 0.9)], [], None),
        ([Moment(10.0, 20.0, 0.9)], None, None),
        ([], [(12.0, 20.0)], None),
    ],
)
def test_overlap_is_that_of_the_best_answer_with_its_best_moment(
    moments: list[Moment], truth: list[tuple[float, float]] | None, overlap: float | None
) -> None:
    video = EncodedVideo(Path("films/a.mp4"), 40.0, (np.zeros((20, 4), np.float32),))
    result = GroundingResult("a dog", moments, np.linspace(0, 1, 20, dtype=np.float32), 2.0, words_cut=False)
    figure = grounding_figure(video, result, [], truth)
    assert figure.overlap == (None if overlap is None else pytest.approx(overlap))
    assert figure.windows == [(m.start_s, m.end_s, m.score) for m in moments]
    assert (figure.video, figure.duration_s, figure.truth) == ("a.mp4", 40.0, truth)
    assert figure.saliency is not None
    assert figure.saliency[0] == [2.0 * row + 1 for row in range(20)]
