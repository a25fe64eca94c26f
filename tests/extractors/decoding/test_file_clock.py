"""Seconds count from the container's start, as a player shows them, whichever stream begins first."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media import FILMS, MPEG4, OPEN_GOP, X264, Film, after_packets, ffmpeg, make_film, read_number, x264
from reading import read_film

from mesm.extractors.contracts import READING_RULE, VideoInfo
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.sampling import (
    clip_rows,
    image_rows,
    interval_rows,
    resampled_frames,
    row_count,
    slowfast_parity_rows,
    window_rows,
)
from mesm.pipeline.report.thumbnails import thumbnails

RATE = 25
COUNT = 50


def late_film(folder: Path, suffix: str, offset_s: float, codec: tuple[str, ...] = X264, sound: str = "aac") -> Path:
    """Make a film of 50 painted frames whose pictures begin `offset_s` after the sound, and end with it."""
    sine = ("-f", "lavfi", "-t", str(offset_s + 2), "-i", "sine")
    silent = make_film(Film("silent.mkv", (*codec, *(("-bf", "0") if codec is X264 else ()))), folder)
    path = folder / f"late.{suffix}"
    inputs = ("-itsoffset", str(offset_s), "-i", str(silent), *sine)
    ffmpeg(*inputs, "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", sound, str(path))
    return path


@pytest.mark.parametrize("offset_s", [0.2, 1.5, 11.0])
@pytest.mark.parametrize(
    ("suffix", "codec", "sound"),
    [
        ("mkv", X264, "aac"),
        ("mp4", X264, "aac"),
        ("mov", X264, "aac"),
        ("ts", X264, "aac"),
        ("flv", X264, "aac"),
        ("webm", ("-c:v", "libvpx", "-deadline", "realtime", "-crf", "8"), "libopus"),
        ("wmv", ("-c:v", "wmv2", "-q:v", "2"), "wmav2"),
    ],
)
def test_first_picture_is_where_a_player_shows_it(
    suffix: str, codec: tuple[str, ...], sound: str, offset_s: float, tmp_path: Path
) -> None:
    path = late_film(tmp_path, suffix, offset_s, codec, sound)
    reading = read_film(path)
    assert reading.error is None
    assert reading.painted == list(range(COUNT))
    info = reading.info
    assert info is not None
    # Containers move sound, which has a frame of silence before it, to their start.
    assert offset_s - 0.001 <= info.start_s <= offset_s + 0.07
    assert info.timestamps[0] == 0
    # Not every container says how long its last picture stays.
    assert info.duration_s == pytest.approx(float(info.start_s) + COUNT / RATE, abs=1 / RATE)
    assert info.rule == READING_RULE


def test_start_is_exact_not_rounded_to_frames(tmp_path: Path) -> None:
    """Of what ffmpeg itself says about the film, behind the container's start."""
    path = late_film(tmp_path, "mkv", 1.517)
    said = ffmpeg("-i", str(path), "-map", "0:v", "-frames:v", "1", "-c", "copy", "-f", "framecrc", "-").decode()
    ticks = int(said.splitlines()[-1].split(",")[2])
    assert float(probe(path).start_s) == pytest.approx(ticks / 1000, abs=0.0011)


def test_sound_that_begins_with_the_pictures_changes_nothing(tmp_path: Path) -> None:
    for name in ("h264 with sound", "h264 b-frames", "h264 delayed mkv", "h264 delayed mp4", "h264 times wrap ts"):
        info = probe(make_film(FILMS[name], tmp_path))
        assert (info.start_s, info.rule) == (0, 0), name


def test_times_of_avi_that_are_made_up_are_no_delay(tmp_path: Path) -> None:
    for name in ("h264 avi", "mpeg4 b-frames avi"):
        info = probe(make_film(FILMS[name], tmp_path))
        assert (info.start_s, info.rule) == (0, 0), name


def test_start_that_the_container_does_not_state_is_that_of_its_first_stream(tmp_path: Path) -> None:
    path = tmp_path / "slides.mkv"
    times = ("-vf", "setpts='if(eq(N,2),10,N)/TB'", "-fps_mode", "passthrough", "-output_ts_offset", "5")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=1:d=3", *times, *X264, str(path))
    info = probe(path)
    assert info.start_s == 0
    assert (info.timestamps * info.time_base).tolist() == [0, 1, 10]


@pytest.mark.parametrize("dropped", [9, 12])
@pytest.mark.parametrize("suffix", ["ts", "mkv"])
def test_recording_that_begins_between_key_frames_is_read_from_the_first_one(
    dropped: int, suffix: str, tmp_path: Path
) -> None:
    path = make_film(Film(f"recording.{suffix}", x264(OPEN_GOP), remux=after_packets(dropped)), tmp_path)
    reading = read_film(path)
    assert reading.error is None
    assert reading.missing == 0
    assert reading.painted == list(range(reading.painted[0] or 0, COUNT))
    assert reading.info is not None
    assert reading.info.start_s > 0, "what cannot be shown takes its time"


def steady(frames: int, start_s: Fraction = Fraction(0)) -> VideoInfo:
    """Describe a film of 25 frames a second."""
    ticks, duration = np.arange(frames, dtype=np.int64), float(start_s + Fraction(frames, RATE))
    tick = Fraction(1, RATE)
    return VideoInfo(
        Path("film"), 64, 48, Fraction(RATE), duration, ticks, tick, "h264", "mov", 0, "pyav", start_s=start_s
    )


@pytest.mark.parametrize("frames", [1, 30, 300])
@pytest.mark.parametrize("lead", [1, 13, 40, 170])
def test_rows_before_the_first_picture_show_it(lead: int, frames: int) -> None:
    late, filled = steady(frames, Fraction(lead, RATE)), steady(frames + lead)
    for table in (
        lambda info: image_rows(info, 1.0),
        lambda info: clip_rows(info, 1.0, 32, Fraction(64, 30)),
        lambda info: window_rows(info, 1.0, 24),
        lambda info: interval_rows(info, 2.0, 128),
        lambda info: slowfast_parity_rows(info, 2.0),
    ):
        assert np.array_equal(table(late), np.maximum(table(filled) - lead, 0))
    assert row_count(late, 1.0) == row_count(filled, 1.0)


@pytest.mark.parametrize("rate", ["2", "1", "30", "7/2"])
def test_resampling_of_a_late_film_equals_ffmpegs_constant_rate_output(rate: str, tmp_path: Path) -> None:
    path = late_film(tmp_path, "mkv", 1.5)
    raw = ffmpeg("-i", str(path), "-vf", f"fps={rate}", "-pix_fmt", "rgb24", "-f", "rawvideo", "-")
    painted = [read_number(frame) for frame in np.frombuffer(raw, np.uint8).reshape(-1, 64, 96, 3)]
    assert resampled_frames(probe(path), Fraction(rate)).tolist() == painted


def test_thumbnails_stand_at_their_times(tmp_path: Path) -> None:
    path = late_film(tmp_path, "mp4", 1.5)
    pictures = thumbnails(path, 7)
    info = probe(path)
    for seconds, rgb in pictures:
        number = read_number(rgb)
        assert number is not None
        assert seconds == pytest.approx(float(info.start_s) + number / RATE, abs=0.002)
    assert read_number(pictures[0][1]) == 0


def test_film_beyond_the_limit_is_refused_by_its_length(tmp_path: Path) -> None:
    path = tmp_path / "jump.mkv"
    times = ("-vf", "setpts='if(eq(N,2),3000000,N)/TB'", "-fps_mode", "passthrough")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=1:d=3", *times, *X264, str(path))
    error = read_film(path).error
    assert error is not None
    assert "lasts 3000001 s" in str(error)


def test_rate_that_cannot_be_fills_no_memory_before_the_first_picture() -> None:
    late = replace(steady(2, Fraction(3600)), fps=Fraction(10**9))
    rows = interval_rows(late, 2.0, 16)
    assert rows.shape == (1800, 16)
    assert (rows <= 1).all()


def test_tables_of_many_rows_are_those_of_few() -> None:
    long = steady(400_000)
    rows = clip_rows(replace(long), 1.0, 4, Fraction(1))
    assert len(rows) == 16_000
    centres = 25 * np.arange(16_000)[:, None] + np.array([3, 9, 15, 21])
    assert np.array_equal(rows, centres)


def test_late_mpeg4_in_avi_keeps_its_frames(tmp_path: Path) -> None:
    path = late_film(tmp_path, "avi", 1.5, MPEG4, "mp3")
    reading = read_film(path)
    assert reading.error is None
    assert reading.info is not None
    first = float(reading.info.start_s) + (reading.info.timestamps * float(reading.info.time_base))
    assert reading.painted[-1] == COUNT - 1
    assert first[-1] == pytest.approx(1.5 + (COUNT - 1) / RATE, abs=0.09)
