"""What browsers play, and what is made for them of what they do not play."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from colours import GREEN, GREY, RED, write_film
from PIL import Image

from mesm.extractors.errors import ProbeError
from mesm.pipeline.show.browsers import PREVIEW_SIDE, plays, write_preview, write_still
from mesm.pipeline.show.ffmpeg_run import CutError
from mesm.pipeline.show.source import Source


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "-it's a film.mp4", (4, GREY), (4, RED), (4, GREEN))


def converted(film: Path, out: Path, *options: str) -> Path:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{film}", *options, str(out)]
    subprocess.run(command, check=True)
    return out


def test_what_browsers_play_is_told_by_the_content(film: Path, tmp_path: Path) -> None:
    assert plays(film)
    assert plays(converted(film, tmp_path / "a.webm", "-c:v", "libvpx", "-deadline", "realtime"))
    for name, options in {
        "a.mkv": ("-c", "copy"),
        "hevc.mp4": ("-c:v", "libx265", "-x265-params", "log-level=none"),
        "a.avi": ("-c:v", "mpeg4"),
        "deep.mp4": ("-c:v", "libx264", "-pix_fmt", "yuv444p"),
    }.items():
        assert not plays(converted(film, tmp_path / name, *options))
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    with pytest.raises(ProbeError):
        plays(text)


def test_a_preview_is_small_and_shows_what_the_film_shows(film: Path, tmp_path: Path) -> None:
    wide = converted(film, tmp_path / "wide.mkv", "-vf", "scale=1280:720", "-c:v", "mpeg4")
    out = tmp_path / "preview.mp4"
    assert abs(write_preview(Source.of(wide), 3.0, 6.0, out) - 3.0) <= 0.05
    made = Source.of(out)
    assert (made.info.width, made.info.height) == (PREVIEW_SIDE, 360)
    assert abs(made.info.duration_s - 3.0) < 0.11
    assert plays(out)
    with made.open() as stream:
        pictures = dict(stream.pictures_of([5, 15]))
    assert np.ptp(pictures[5].mean((0, 1))) < 20
    assert pictures[15].mean((0, 1)).argmax() == 0
    assert np.ptp(pictures[15].mean((0, 1))) > 80


def test_a_still_is_the_picture_of_its_second(film: Path, tmp_path: Path) -> None:
    for second, colour in ((1.0, None), (6.0, 0), (10.0, 1)):
        out = tmp_path / f"{second}.jpg"
        write_still(film, second, out)
        seen = np.asarray(Image.open(out)).mean((0, 1))
        assert (np.ptp(seen) < 20) if colour is None else (seen.argmax() == colour and np.ptp(seen) > 80)
    with pytest.raises(CutError, match="nothing at"):
        write_still(film, 99.0, tmp_path / "none.jpg")


def test_ffmpeg_is_ended_when_it_takes_too_long(film: Path, tmp_path: Path) -> None:
    with pytest.raises(CutError, match="took more than"):
        write_preview(Source.of(film), 0.0, 12.0, tmp_path / "preview.mp4", timeout_s=0.001)
    assert list(tmp_path.iterdir()) == []
