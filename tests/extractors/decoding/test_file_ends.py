"""Whole files are read, whatever their last picture does; files that were cut short are refused."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import struct
from pathlib import Path

import pytest
from media import MPEG4, X264, Film, ffmpeg, make_film
from reading import read_film

from mesm.extractors.decoding.probing import probe
from mesm.extractors.errors import ProbeError

HELD = ("-vf", "setpts='if(eq(N,2),10,N)/TB'", "-fps_mode", "passthrough")
"""Three pictures, at 0, 1 and 10 s."""

CODECS = {
    "mkv": X264,
    "mp4": (*X264, "-movflags", "+faststart"),
    "mov": (*X264, "-movflags", "+faststart"),
    "webm": ("-c:v", "libvpx", "-deadline", "realtime", "-b:v", "1M"),
    "avi": MPEG4,
    "wmv": ("-c:v", "wmv2", "-q:v", "2"),
}


def slides(path: Path, codec: tuple[str, ...], *inputs: str) -> Path:
    """Make a film of three pictures, the last of which comes late."""
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=1:d=3", *inputs, *HELD, *codec, str(path))
    return path


def declare(path: Path, seconds: float) -> Path:
    """Overwrite the duration in the header of a Matroska file."""
    content = bytearray(path.read_bytes())
    at = content.index(b"\x44\x89")
    assert content[at + 2] == 0x88
    struct.pack_into(">d", content, at + 3, seconds * 1000)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_last_picture_that_stays_on_is_no_truncation(suffix: str, tmp_path: Path) -> None:
    path = declare(slides(tmp_path / f"slides.{suffix}", CODECS[suffix]), 20)
    reading = read_film(path)
    assert reading.error is None
    assert reading.info is not None
    assert (reading.info.timestamps * reading.info.time_base).tolist() == [0, 1, 10]
    assert reading.info.duration_s == 20.0
    assert reading.missing == 0


def test_last_picture_stays_on_beyond_the_sound(tmp_path: Path) -> None:
    sound = ("-f", "lavfi", "-t", "4", "-i", "sine", "-map", "0:v", "-map", "1:a", "-c:a", "aac")
    info = probe(declare(slides(tmp_path / "slides.mkv", X264, *sound), 20))
    assert info.duration_s == 20.0


def test_held_picture_counts_from_the_films_start(tmp_path: Path) -> None:
    info = probe(declare(slides(tmp_path / "slides.mkv", (*X264, "-output_ts_offset", "5")), 25))
    assert info.duration_s == 20.0


def test_length_that_no_picture_is_held_for_is_damage(tmp_path: Path) -> None:
    path = declare(slides(tmp_path / "slides.mkv", X264), 1e6)
    with pytest.raises(ProbeError, match="declares 1000000"):
        probe(path)


def test_held_film_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = declare(slides(tmp_path / "slides.mkv", X264), 20)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ProbeError, match="truncated"):
        probe(path)


def without_length(path: Path) -> Path:
    """Put an element without a meaning in the place of a Matroska file's duration."""
    content = bytearray(path.read_bytes())
    at = content.index(b"\x44\x89\x88")
    content[at : at + 11] = b"\xec\x89" + bytes(9)
    path.write_bytes(content)
    return path


def test_film_of_no_declared_length_ends_where_its_structure_does(tmp_path: Path) -> None:
    path = tmp_path / "whole.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=6", *X264, str(path))
    reading = read_film(without_length(path))
    assert reading.error is None
    assert reading.info is not None
    assert reading.info.frame_count == 150
    size = path.stat().st_size
    os.truncate(path, int(0.96 * size))
    with pytest.raises(ProbeError, match=rf"speaks of {size:,} bytes, but has {int(0.96 * size):,}: truncated"):
        probe(path)


def gapped(path: Path) -> Path:
    """Make an AVI of 100 pictures, 55 of which repeat the one before as empty chunks."""
    gaps = ("-vf", "select='not(between(mod(n,20),5,15))'", "-fps_mode", "vfr")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=4", *gaps, *MPEG4, str(path))
    return path


def test_repeated_pictures_of_avi_are_not_missing(tmp_path: Path) -> None:
    reading = read_film(gapped(tmp_path / "screen.avi"))
    assert reading.error is None
    assert reading.info is not None
    numbers = [number for number in range(100) if not 5 <= number % 20 <= 15]
    times = reading.info.timestamps * float(reading.info.time_base)
    assert times.tolist() == pytest.approx([number / 25 for number in numbers])
    assert reading.info.duration_s == 4.0
    assert reading.missing == 0


@pytest.mark.parametrize("keep", [0.4, 0.8, 0.95])
def test_avi_with_repeated_pictures_that_was_cut_is_refused(keep: float, tmp_path: Path) -> None:
    path = gapped(tmp_path / "screen.avi")
    os.truncate(path, int(path.stat().st_size * keep))
    error = read_film(path).error
    assert error is not None
    said = re.search(r"(\d+) of (\d+) frames could not", str(error))
    assert said is None or int(said[1]) <= int(said[2])


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("suffix", CODECS)
def test_film_that_was_cut_is_refused(suffix: str, keep: float, tmp_path: Path) -> None:
    whole = tmp_path / f"whole.{suffix}"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=6", *CODECS[suffix], str(whole))
    assert read_film(whole).error is None
    cut = Path(shutil.copy(whole, tmp_path / f"cut.{suffix}"))
    os.truncate(cut, int(whole.stat().st_size * keep))
    assert read_film(cut).error is not None


def test_sound_that_goes_on_in_asf_is_no_truncation(tmp_path: Path) -> None:
    film = make_film(Film("silent.mkv", MPEG4), tmp_path)
    path = tmp_path / "sound.wmv"
    sound = ("-f", "lavfi", "-t", "40", "-i", "sine")
    ffmpeg("-i", str(film), *sound, "-map", "0:v", "-map", "1:a", *CODECS["wmv"], "-c:a", "wmav2", str(path))
    reading = read_film(path)
    assert reading.error is None
    assert reading.painted == list(range(50))
    assert reading.info is not None
    assert reading.info.duration_s == pytest.approx(2, abs=0.1), "the sound's length is not the film's"


def follow(error: object, file: Path, new: Path) -> Path:
    """Do what a message advises between its brackets, and return what that makes."""
    advice = re.search(r"\(ffmpeg (.*)\)", str(error))
    assert advice is not None
    words = [str(file) if word == "FILE" else re.sub(r"^NEW", str(new), word) for word in shlex.split(advice[1])]
    ffmpeg(*words)
    return Path(words[-1])


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_advice_for_a_cut_film_keeps_all_that_is_there(suffix: str, tmp_path: Path) -> None:
    parts = ("-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=6", "-f", "lavfi", "-t", "6", "-i", "sine")
    two = (*parts, "-f", "lavfi", "-t", "6", "-i", "sine", "-map", "0:v", "-map", "1:a", "-map", "2:a")
    path = tmp_path / f"cut.{suffix}"
    ffmpeg(*two, *CODECS[suffix], "-g", "10", "-c:a", "aac", str(path))
    os.truncate(path, int(path.stat().st_size * 0.6))
    with pytest.raises(ProbeError, match="truncated") as caught:
        probe(path)
    copy = follow(caught.value, path, tmp_path / "new")
    assert read_film(copy, "pyav").error is None
    said = re.search(r"end at ([\d.]+) s", str(caught.value))
    assert said is not None
    assert probe(copy).duration_s == pytest.approx(float(said[1]), abs=0.1)
    listed = ffmpeg("-i", str(copy), "-map", "0", "-c", "copy", "-t", "0.1", "-f", "framecrc", "-").decode()
    assert {line.partition(",")[0] for line in listed.splitlines() if not line.startswith("#")} == {"0", "1", "2"}


def test_advice_for_joined_films_gives_one_that_is_read(tmp_path: Path) -> None:
    parts = [make_film(Film(f"part{n}.ts", frames=40), tmp_path) for n in range(2)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(ProbeError, match="backwards") as caught:
        probe(path)
    reading = read_film(follow(caught.value, path, tmp_path / "new"))
    assert reading.error is None
    assert reading.painted == [*range(40), *range(40)]
