"""The picture is the one that a player shows: the right track, turned, mirrored, cropped, and of a size to decode."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from media import MPEG4, X264, Film, ffmpeg, make_film
from reading import read_film

from mesm.extractors.contracts import READING_RULE
from mesm.extractors.decoding.container_crop import container_crop
from mesm.extractors.decoding.containers import MAX_PIXELS
from mesm.extractors.decoding.file_ends import is_whole
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.streams import open_stream

PATTERN = "testsrc2=s={size}:r={rate}:d={seconds}"


def pattern(path: Path, *options: str, size: str = "160x120", rate: int = 25, seconds: float = 0.4) -> Path:
    """Make a film of ffmpeg's test pattern, whose quarters differ in colour."""
    source = PATTERN.format(size=size, rate=rate, seconds=seconds)
    ffmpeg("-f", "lavfi", "-i", source, *X264, *options, str(path))
    return path


def set_matrix(path: Path, a: float, b: float, c: float, d: float) -> None:
    """Write the two rows of a display matrix into the first track header of an MP4 file."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd")
    start = at + 8 + (32 if content[at + 4] else 20) + 16
    rows = [round(value * 65536) for value in (a, b, 0, c, d, 0)]
    struct.pack_into(">9i", content, start, *rows, 0, 0, 1 << 30)
    path.write_bytes(content)


def shown_by_ffmpeg(path: Path, width: int, height: int, track: str = "0:v:0") -> np.ndarray:
    """Return the (frames, height, width, 3) pictures that ffmpeg's command line shows."""
    scale = ("-vf", f"scale={width}:{height}:flags=bicubic")
    raw = ffmpeg("-i", str(path), "-map", track, *scale, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def assert_shown_as_by_ffmpeg(path: Path, track: str = "0:v:0") -> None:
    info = probe(path)
    with open_stream(info) as stream:
        frames = np.stack([rgb for _, rgb in stream])
    expected = shown_by_ffmpeg(path, info.width, info.height, track)
    assert frames.shape == expected.shape
    # Two versions of ffmpeg may differ in a rounding.
    assert np.abs(frames.astype(int) - expected).mean() < 1


MATRICES = {
    "none": ((1, 0, 0, 1), 0),
    "turned 90": ((0, 1, -1, 0), 0),
    "turned 180": ((-1, 0, 0, -1), 0),
    "turned 270": ((0, -1, 1, 0), 0),
    "stretched": ((2, 0, 0, 1), 0),
    "mirrored across": ((-1, 0, 0, 1), READING_RULE),
    "mirrored down": ((1, 0, 0, -1), READING_RULE),
    "transposed": ((0, 1, 1, 0), READING_RULE),
    "transposed the other way": ((0, -1, -1, 0), READING_RULE),
    "turned 45": ((0.7071, 0.7071, -0.7071, 0.7071), READING_RULE),
    "all zero": ((0, 0, 0, 0), READING_RULE),
    "one row zero": ((0, 0, 0, 1), READING_RULE),
}
"""Rows of a display matrix, and the first rule of reading that shows such a film as it is shown now."""


@pytest.mark.parametrize("stretch", ["1", "4/3"])
@pytest.mark.parametrize("name", MATRICES)
def test_display_matrix_is_followed_as_ffmpeg_does(name: str, stretch: str, tmp_path: Path) -> None:
    path = pattern(tmp_path / "film.mp4", "-vf", f"setsar={stretch}")
    matrix, rule = MATRICES[name]
    set_matrix(path, *matrix)
    assert_shown_as_by_ffmpeg(path)
    assert probe(path).rule == rule


def test_matrix_that_cannot_be_inverted_shows_the_coded_picture(tmp_path: Path) -> None:
    plain = pattern(tmp_path / "plain.mp4")
    path = Path(shutil.copy(plain, tmp_path / "flat.mp4"))
    set_matrix(path, 1, 1, 1, 1)
    info = probe(path)
    assert (info.width, info.height, info.rotation, info.upright) == (160, 120, 0, ())
    assert read_film(path).checksum == read_film(plain, "pyav").checksum


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_crop_at_the_left_is_exact(suffix: str, tmp_path: Path) -> None:
    crop = "h264_metadata=crop_left=20:crop_right=12:crop_top=16:crop_bottom=8"
    path = pattern(tmp_path / f"cropped.{suffix}", "-bsf:v", crop)
    info = probe(path)
    assert (info.width, info.height, info.rule) == (128, 104, READING_RULE)
    assert_shown_as_by_ffmpeg(path)


@pytest.mark.parametrize("matrix", [8, 10, 11, 13, 14])
def test_colour_matrices_that_filters_refuse_are_shown_by_the_usual_one(matrix: int, tmp_path: Path) -> None:
    usual = pattern(tmp_path / "usual.mp4", "-bsf:v", f"h264_metadata=matrix_coefficients={9 if matrix == 10 else 2}")
    path = pattern(tmp_path / "rare.mp4", "-bsf:v", f"h264_metadata=matrix_coefficients={matrix}")
    found, expected = read_film(path, "pyav"), read_film(usual, "pyav")
    assert found.error is None
    assert found.checksum == expected.checksum
    assert read_film(path).checksum == found.checksum


def two_tracks(path: Path, first: Sequence[str], second: Sequence[str], *options: str) -> Path:
    """Make a file of two video tracks from two inputs."""
    ffmpeg(*first, *second, "-map", "0:v", "-map", "1:v", *X264, *options, str(path))
    return path


def source(size: str = "160x120", rate: int = 25, seconds: float = 2) -> list[str]:
    return ["-f", "lavfi", "-i", PATTERN.format(size=size, rate=rate, seconds=seconds)]


UNMARKED = ("-disposition:v:0", "0", "-disposition:v:1", "0")
SECOND = ("-disposition:v:0", "0", "-disposition:v:1", "default")
BOTH = ("-disposition:v:0", "default", "-disposition:v:1", "default")

TRACKS: dict[str, tuple[str, list[str], list[str], tuple[str, ...], int]] = {
    "a preview picture first": ("mp4", source("64x48", 1, 1), source(), SECOND, 1),
    "a preview picture first, none marked": ("mp4", source("64x48", 1, 1), source(), UNMARKED, 1),
    "a large picture marked": ("mkv", source("320x240", 1, 1), source(), (), 1),
    "a film of one frame last": ("mkv", source(), source("320x240", 1, 1), BOTH, 0),
    "the second marked": ("mkv", source("320x240"), source(), SECOND, 1),
    "the first marked": ("mp4", source("64x48"), source(), ("-disposition:v:1", "0"), 0),
    "a proxy first, none marked": ("ts", source("64x48"), source(), (), 1),
    "a proxy first, both marked": ("mkv", source("64x48"), source(), BOTH, 1),
    "few frames first, one size": ("mkv", source(rate=2), source(), UNMARKED, 1),
    "as many frames, one size": ("mkv", source(), source(), UNMARKED, 0),
    "hardly more frames, one size": ("mkv", source(), source(seconds=2.4), UNMARKED, 0),
}
"""Container, inputs of two tracks, their marks, and which of them is the film."""


@pytest.mark.parametrize("name", TRACKS)
def test_film_is_the_track_that_a_player_shows(name: str, tmp_path: Path) -> None:
    suffix, first, second, marks, film = TRACKS[name]
    path = two_tracks(tmp_path / f"tracks.{suffix}", first, second, *marks)
    info = probe(path)
    assert info.track == film
    assert info.rule == (READING_RULE if film else 0)
    assert_shown_as_by_ffmpeg(path, f"0:v:{film}")


def test_single_picture_is_a_film_when_there_is_no_other(tmp_path: Path) -> None:
    info = probe(pattern(tmp_path / "still.mp4", "-frames:v", "1"))
    assert (info.frame_count, info.track) == (1, 0)


def test_track_that_is_gone_is_an_error(tmp_path: Path) -> None:
    path = make_film(Film("film.mp4", MPEG4, frames=5), tmp_path)
    info = replace(probe(path), track=3)
    with pytest.raises(Exception, match="no video stream 3"), open_stream(info):
        pass


def png(side: int) -> bytes:
    """Return a black PNG picture of many pixels and few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(1)
    row = bytes(1 + side * 3)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


MEASURE = """
import resource, sys
from pathlib import Path
from mesm.extractors.decoding.probing import probe
from mesm.extractors.errors import ProbeError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    probe(Path(sys.argv[1]))
except ProbeError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("suffix", ["mov", "mkv"])
def test_huge_pictures_are_refused_before_they_are_decoded(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(9000))
    path = tmp_path / f"huge.{suffix}"
    ffmpeg("-framerate", "1", "-i", str(tmp_path / "1.png"), "-c", "copy", str(path))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    refusal, grown_mib = done.stdout.splitlines()
    assert path.name in refusal
    assert f"{MAX_PIXELS:,} pixels" in refusal
    assert int(grown_mib) < 100, "a picture alone would take 230"


def test_pixels_that_are_stretched_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=s=4096x4096:r=1:d=1", "-vf", "setsar=8", *X264, str(path))
    error = read_film(path).error
    assert error is not None
    assert "32768x4096 pixels are too large" in str(error)


BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1")
HEADERS = {b"stsd": 8, b"avc1": 78}


def with_aperture(path: Path, width: int, height: int, right: int, below: int) -> Path:
    """Add a clean aperture, off the centre by so many pixels, to an MP4 film whose tables stand at its end."""
    content = bytearray(path.read_bytes())
    box = struct.pack(">I4s8i", 40, b"clap", width, 1, height, 1, right, 1, below, 1)
    start, end = 0, len(content)
    for kind in BOXES:
        place = start
        while content[place + 4 : place + 8] != kind:
            place += int.from_bytes(content[place : place + 4], "big")
            assert place < end
        size = int.from_bytes(content[place : place + 4], "big")
        content[place : place + 4] = (size + len(box)).to_bytes(4, "big")
        start, end = place + 8 + HEADERS.get(kind, 0), place + size
    content[end:end] = box
    target = path.with_name(f"aperture-{path.name}")
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("aperture", "part"),
    [((128, 96, -6, 4), "128:96:10:16"), ((160, 100, 0, 0), "160:100:0:10")],
)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_part_that_the_container_shows_is_cut_out(
    suffix: str, aperture: tuple[int, int, int, int], part: str, tmp_path: Path
) -> None:
    plain = pattern(tmp_path / "plain.mp4", "-bf", "0")
    path = with_aperture(plain, *aperture)
    if suffix == "mkv":
        ffmpeg("-i", str(path), "-c", "copy", str(path.with_suffix(".mkv")))
        path = path.with_suffix(".mkv")
        if b"\x54\xaa" not in path.read_bytes():
            pytest.skip("this ffmpeg writes no crop into Matroska")
    info = probe(path)
    assert (info.width, info.height, info.rule) == (*aperture[:2], READING_RULE)
    raw = ffmpeg("-i", str(plain), "-vf", f"crop={part}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    expected = np.frombuffer(raw, np.uint8).reshape(-1, info.height, info.width, 3)
    with open_stream(info) as stream:
        frames = np.stack([rgb for _, rgb in stream])
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 1


def with_crop(path: Path, left: int, top: int) -> Path:
    """Write a crop into a Matroska film, in the place of the aspect ratio to show it in."""
    content = path.read_bytes()
    for shape, crop in ((b"\x54\xb0\x81.", b"\x54\xcc\x81%c" % left), (b"\x54\xba\x81.", b"\x54\xbb\x81%c" % top)):
        content, count = re.subn(shape, crop, content, count=1, flags=re.DOTALL)
        assert count == 1
    path.write_bytes(content.replace(b"\x54\xb2\x81\x03", b"\x54\xb2\x81\x00"))
    return path


def test_crop_of_matroska_is_that_of_its_video_track(tmp_path: Path) -> None:
    plain, path = pattern(tmp_path / "plain.mp4", "-bf", "0"), tmp_path / "cropped.mkv"
    sound = ("-f", "lavfi", "-t", "0.4", "-i", "sine", "-map", "1:a", "-map", "0:v")
    ffmpeg("-i", str(plain), *sound, "-c:v", "copy", "-aspect", "2:1", "-c:a", "aac", str(path))
    info = probe(with_crop(path, 20, 16))
    assert (info.width, info.height, info.rule) == (140, 104, READING_RULE)
    raw = ffmpeg("-i", str(plain), "-vf", "crop=140:104:20:16", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    expected = np.frombuffer(raw, np.uint8).reshape(-1, 104, 140, 3)
    with open_stream(info) as stream:
        frames = np.stack([rgb for _, rgb in stream])
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 1


def element(name: int, *content: bytes) -> bytes:
    """An EBML element, its size in four bytes."""
    inside = b"".join(content)
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (0x10000000 | len(inside)).to_bytes(4, "big") + inside


def test_crops_of_matroska_by_their_sides(tmp_path: Path) -> None:
    def track(kind: int, *sides: tuple[int, bytes]) -> bytes:
        picture = element(0xE0, element(0xB0, b"\x02\x80"), *(element(name, value) for name, value in sides))
        return element(0xAE, element(0xD7, b"\x01"), element(0x83, bytes([kind])), picture)

    first = track(1, (0x54CC, b"\x01\x00"), (0x54DD, b"\x02"), (0x54BB, b"\0\0\0\0\0\0\0\x03"), (0x54AA, b"\x04"))
    tracks = element(0x1654AE6B, track(2, (0x54CC, b"\x09")), first, track(1, (0x54BB, b"\x07")), track(1))
    later = element(0x1654AE6B, track(1, (0x54CC, b"\x08")))
    path = tmp_path / "tracks"
    path.write_bytes(element(0x1A45DFA3) + element(0x18538067, element(0xEC, b"\0"), tracks, later))
    assert container_crop(path, "matroska", 0, 640, 480) == (256, 2, 3, 4)
    assert container_crop(path, "matroska", 1, 640, 480) == (0, 0, 7, 0)
    assert container_crop(path, "matroska", 2, 640, 480) is None
    assert container_crop(path, "matroska", 3, 640, 480) is None
    assert container_crop(path, "matroska", 0, 259, 480) == (256, 2, 3, 4)
    assert container_crop(path, "matroska", 0, 258, 480) is None
    assert container_crop(path, "matroska", 0, 640, 8) == (256, 2, 3, 4)
    assert container_crop(path, "matroska", 0, 640, 7) is None
    assert container_crop(path, "avi", 0, 640, 480) is None


@pytest.mark.parametrize("aperture", [(1000, 96, 0, 0), (128, 96, 100, 0), (160, 120, 0, 0), (0, 0, 0, 0)])
def test_part_that_cannot_be_is_passed_over(aperture: tuple[int, int, int, int], tmp_path: Path) -> None:
    info = probe(with_aperture(pattern(tmp_path / "plain.mp4"), *aperture))
    assert (info.width, info.height, info.rule) == (160, 120, 0)


def test_damaged_structure_makes_no_other_error(tmp_path: Path) -> None:
    film = with_aperture(pattern(tmp_path / "plain.mp4"), 128, 96, -6, 4)
    ffmpeg("-i", str(film), "-c", "copy", str(tmp_path / "film.mkv"))
    generator = np.random.default_rng(5)
    for source_path, container in ((film, "mov"), (tmp_path / "film.mkv", "matroska")):
        content = source_path.read_bytes()
        path = tmp_path / "damaged"
        for _ in range(150):
            damaged = np.frombuffer(content, np.uint8)[: generator.integers(1, len(content))].copy()
            damaged[generator.integers(0, len(damaged), 40)] = generator.integers(0, 256, 40)
            path.write_bytes(damaged.tobytes())
            crop = container_crop(path, container, 0, 160, 120)
            assert crop is None or (crop.left + crop.right < 160 and crop.top + crop.bottom < 120)
            assert is_whole(path) in (True, False)
