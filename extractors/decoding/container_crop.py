"""The part of a picture that its container asks to show: `clap` of MP4 and MOV, `PixelCrop` of Matroska.

Decoders crop by themselves what the coded video says; what the container says is for whoever shows the picture, as
ffmpeg's command line does. PyAV does not tell of it, so the few bytes are read here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, NamedTuple

from mesm.extractors.decoding.nested_elements import boxes, elements

_SEGMENT, _TRACKS, _ENTRY, _TYPE, _VIDEO, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0, 0x1F43B675
_PIXEL_CROP = {0x54CC: 0, 0x54DD: 1, 0x54BB: 2, 0x54AA: 3}
_SAMPLE_ENTRY_BYTES = 86
"""Bytes of a visual sample entry before the boxes in it."""


class Crop(NamedTuple):
    """Pixels to cut away from each side of a coded picture."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    @property
    def filter(self) -> tuple[str, str]:
        """The ffmpeg filter that does it."""
        size = f"w=iw-{self.left}-{self.right}:h=ih-{self.top}-{self.bottom}"
        return "crop", f"{size}:x={self.left}:y={self.top}"


def container_crop(path: Path, container: str, video: int, width: int, height: int) -> Crop | None:
    """Return what the container cuts from the coded pictures of its `video`-th video track; None for nothing.

    `container`: libavformat's first name for it. What would leave nothing of `width` x `height` pixels counts as none.
    """
    with open(path, "rb") as file:
        if container == "mov":
            crop = _clean_aperture(file, path.stat().st_size, video, width, height)
        elif container == "matroska":
            crop = _pixel_crop(file, path.stat().st_size, video)
        else:
            return None
    if crop is None or not any(crop) or min(crop) < 0:
        return None
    return crop if crop.left + crop.right < width and crop.top + crop.bottom < height else None


def _clean_aperture(file: IO[bytes], size: int, video: int, width: int, height: int) -> Crop | None:
    entries = list(_sample_entries(file, size))
    if video >= len(entries):
        return None
    start, end = entries[video]
    for kind, first, last in boxes(file, start, end):
        if kind == b"clap" and last - first >= 32:
            file.seek(first)
            numbers = struct.unpack(">8i", file.read(32).ljust(32, b"\0"))
            if min(numbers[1::2]) <= 0:
                return None
            across, down, right, below = (Fraction(n, d) for n, d in zip(numbers[::2], numbers[1::2], strict=True))
            left, top = int((width - across) / 2 + right), int((height - down) / 2 + below)
            return Crop(left, width - int(across) - left, top, height - int(down) - top)
    return None


def _sample_entries(file: IO[bytes], size: int) -> Iterator[tuple[int, int]]:
    """Yield where the boxes of the first sample entry of each video track begin and end."""
    for _, start, end in _inside(file, (0, size), b"moov", b"trak"):
        handler = next(_inside(file, (start, end), b"mdia", b"hdlr"), None)
        description = next(_inside(file, (start, end), b"mdia", b"minf", b"stbl", b"stsd"), None)
        if handler is None or description is None:
            continue
        file.seek(handler[1] + 8)
        if file.read(4) == b"vide":
            for _, first, last in boxes(file, description[1] + 8, description[2]):
                yield first - 8 + _SAMPLE_ENTRY_BYTES, last
                break


def _inside(file: IO[bytes], within: tuple[int, int], *path: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes that lie at a path of kinds inside a range."""
    for kind, start, end in boxes(file, *within):
        if kind == path[0]:
            if len(path) == 1:
                yield kind, start, end
            else:
                yield from _inside(file, (start, end), *path[1:])


def _pixel_crop(file: IO[bytes], size: int, video: int) -> Crop | None:
    tracks = [
        track
        for element, start, end in elements(file, 0, size)
        if element == _SEGMENT
        for track in _track_list(file, start, end)
    ]
    return tracks[video] if video < len(tracks) else None


def _track_list(file: IO[bytes], start: int, end: int) -> Iterator[Crop]:
    """Yield the crop of each video track of a segment, in order."""
    for element, first, last in elements(file, start, end):
        if element == _CLUSTER:
            return
        if element == _TRACKS:
            for entry, inner, outer in elements(file, first, last):
                if entry == _ENTRY:
                    parts = list(elements(file, inner, outer))
                    if any(kind == _TYPE and _number(file, place, stop) == 1 for kind, place, stop in parts):
                        yield _crop_of(file, parts)
            return


def _crop_of(file: IO[bytes], parts: list[tuple[int, int, int]]) -> Crop:
    sides = [0, 0, 0, 0]
    for kind, start, end in parts:
        if kind == _VIDEO:
            for element, first, last in elements(file, start, end):
                if element in _PIXEL_CROP:
                    sides[_PIXEL_CROP[element]] = _number(file, first, last)
    return Crop(*sides)


def _number(file: IO[bytes], start: int, end: int) -> int:
    file.seek(start)
    return int.from_bytes(file.read(min(end - start, 8)), "big")
