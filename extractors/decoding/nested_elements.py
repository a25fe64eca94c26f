"""The outer structure of files: boxes of MP4 and MOV, elements of Matroska. Nothing is believed beyond its parent."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

MOST = 10_000
"""Boxes or elements of one parent that are looked at."""

_FARTHEST = 2**62
"""No file is as long; damaged sizes may lead beyond, where none can be read."""


def boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start of the content, end) of the boxes between two places of a file; the last may reach beyond.

    Ends at what is no box.
    """
    place = start
    for _ in range(MOST):
        if place + 8 > min(end, _FARTHEST):
            return
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        content = place + 8
        if length == 1:
            length, content = int.from_bytes(file.read(8), "big"), content + 8
        elif length == 0:
            length = end - place
        if place + length < content:
            return
        yield kind, content, place + length
        place += length


def elements(file: IO[bytes], start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (id, start of the content, end) of the Matroska elements between two places of a file.

    One of unknown size ends at `end`.
    """
    place = start
    for _ in range(MOST):
        if place >= min(end, _FARTHEST):
            return
        file.seek(place)
        element, length = read_vint(file, keep_marker=True), read_vint(file, keep_marker=False)
        if element is None:
            return
        content = file.tell()
        place = end if length is None else content + length
        yield element, content, min(place, end)


def read_vint(file: IO[bytes], keep_marker: bool) -> int | None:
    """Read one of EBML's numbers of 1 to 8 bytes; None at the end, or when it stands for an unknown size."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    rest = file.read(more)
    if len(rest) < more:
        return None
    value = int.from_bytes(first + rest, "big")
    marker = 1 << 7 * (more + 1)
    if keep_marker:
        return value
    return None if value == 2 * marker - 1 else value - marker
