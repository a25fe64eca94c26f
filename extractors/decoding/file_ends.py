"""Where a file should end: films that were cut short are told from films whose last picture stays on.

Packets that end well before the declared end mean either. What tells them apart is the file's outer structure: a
Matroska segment, the boxes of MP4 and MOV, the chunks of AVI and the objects of ASF have sizes, and in a file that was
cut short some of them reach beyond its end. Other containers do not tell, so that their films count as cut short.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av

from mesm.extractors.decoding.nested_elements import boxes, read_vint
from mesm.extractors.decoding.packets import MADE_UP_TIMES, FilePackets, Packets
from mesm.extractors.errors import ProbeError

MISSING_END_S = 0.5
"""Seconds by which packets may end before the declared end, when that is more than `MISSING_END_SHARE`."""

MISSING_END_SHARE = 0.02
"""Share of the declared duration by which packets may end early."""

LARGEST_STEP_BACK_S = 0.5
"""Seconds by which decoding times may run backwards; joined or damaged files exceed it."""

_WHOLE_FILE = frozenset({"matroska,webm", "flv"})
"""Demuxers that know the length of the file alone, which libavformat then ascribes to streams that begin late."""

_UNDECLARED = frozenset({"mpegts", "mpeg"})
"""Demuxers whose files declare no length: libavformat estimates it from some packets."""

LONGEST_HELD_S = 6 * 3600
"""A last picture that is declared to stay on for longer is taken for a damaged header."""

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_LARGEST_PREFIX = 64 * 1024
"""Bytes of other elements that may stand before a Matroska segment."""


def check_end(container: Any, stream: Any, found: FilePackets, path: Path) -> Fraction | None:
    """Return where a whole file holds its last picture to, in seconds of the container's clock; None: nothing is held.

    Raises ProbeError when the packets end before what the header declares because the file was cut short, and when
    times run backwards.
    """
    packets = found.tracks[stream.index]
    step_back = float(packets.step_back * stream.time_base)
    declared, end = declared_end(container, stream, found)
    _refuse_shortened(path, packets, declared_by_header=bool(stream.duration or container.duration))
    held = declared - end > end_tolerance(declared)
    if held and not _is_held(container, stream, packets, path, declared - end):
        raise ProbeError(
            f"{path} declares {declared:.2f} s of video, but its frames end at {end:.2f} s: truncated or damaged; get "
            "the whole file, or accept what is there by a copy that declares no more "
            f"(ffmpeg -i FILE -map 0 -ignore_unknown -c copy NEW{path.suffix})"
        )
    if step_back > LARGEST_STEP_BACK_S:
        raise ProbeError(
            f"{path}: its times run {step_back:.2f} s backwards, so it was joined of several files or is damaged; "
            "encode it anew (ffmpeg -i FILE -map 0:v -map 0:a? NEW.mkv)"
        )
    if not held:
        return None
    begin = found.begin(container)
    if stream.duration and container.format.name not in _WHOLE_FILE:
        return int(packets.shown[0]) * Fraction(stream.time_base) + stream.duration * Fraction(stream.time_base) - begin
    return Fraction(container.duration, av.time_base) - begin


def _refuse_shortened(path: Path, packets: Packets, declared_by_header: bool) -> None:
    """Refuse a file without a declared length whose outer structure reaches far beyond its end."""
    if declared_by_header:
        return
    size, announced = path.stat().st_size, _announced_end(path)
    if announced is not None and size < announced * (1 - MISSING_END_SHARE):
        raise ProbeError(
            f"{path} speaks of {announced:,} bytes, but has {size:,}: truncated; get the whole file, or accept its "
            f"{len(packets.times)} frames by a copy (ffmpeg -i FILE -map 0 -ignore_unknown -c copy NEW{path.suffix})"
        )


def declared_end(container: Any, stream: Any, found: FilePackets) -> tuple[float, float]:
    """Return where the header says that the video ends, or else the file, and where its packets do, in seconds."""
    packets = found.tracks[stream.index]
    if container.format.name in _UNDECLARED:
        return found.end_s, found.end_s
    if container.format.name == "asf" and stream.duration:
        # Each of its streams declares the length of the file.
        return float(stream.duration * stream.time_base), found.end_s
    if stream.duration and container.format.name not in _WHOLE_FILE:
        last = int(packets.timestamps[-1]) + packets.last_duration
        return float(stream.duration * stream.time_base), float(last * stream.time_base)
    if container.duration:
        return container.duration / av.time_base, found.end_s
    return found.end_s, found.end_s


def end_tolerance(declared: float) -> float:
    """Return the seconds by which packets may end before a declared end."""
    return max(MISSING_END_S, MISSING_END_SHARE * declared)


def lost_frames(container: Any, stream: Any, packets: Packets, path: Path) -> int:
    """Return how many frames the header counts that a file cut short lacks; known of AVI alone.

    AVI counts what repeats the picture before, too: in a whole file these are no frames.
    """
    if container.format.name not in MADE_UP_TIMES or is_whole(path):
        return 0
    return max(0, stream.frames - len(packets.times))


def is_whole(path: Path) -> bool:
    """Say whether a file's outer structure ends within the file; False where it does not tell."""
    end = _announced_end(path)
    return end is not None and end <= path.stat().st_size


def _announced_end(path: Path) -> int | None:
    """Return where a file's outer structure ends, in bytes; None where it does not tell."""
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(0)
        for begins, announced in _STRUCTURES:
            if begins(head):
                return announced(file, path.stat().st_size)
    return None


def _is_held(container: Any, stream: Any, packets: Packets, path: Path, held_s: float) -> bool:
    """Tell a last picture that stays on from a film that was cut short, or whose tables are damaged."""
    if held_s > LONGEST_HELD_S or not is_whole(path):
        return False
    if "mp4" not in container.format.name:
        return True
    # In MP4 the tables must account for every frame, and the film's header for the track's length.
    end = (container.duration or 0) / av.time_base
    agree = abs(end - float(stream.duration * stream.time_base)) <= end_tolerance(end)
    return agree and len(packets.times) + packets.discarded == stream.frames


def _matroska_end(file: IO[bytes], size: int) -> int | None:
    """Return where the segment ends; None when its size is not known, as while it is recorded."""
    while file.tell() < _LARGEST_PREFIX:
        element = read_vint(file, keep_marker=True)
        length = read_vint(file, keep_marker=False)
        if element is None or length is None:
            return None
        if element == _SEGMENT:
            return file.tell() + length
        file.seek(length, 1)
    return None


def _boxes_end(file: IO[bytes], size: int) -> int | None:
    """Return where the last box of an MP4 or MOV file ends; None for fragments, which may be cut between two."""
    place = 0
    for kind, _, end in boxes(file, 0, size):
        if kind == b"moof":
            return None
        place = end
    return place


def _chunks_end(file: IO[bytes], size: int) -> int | None:
    """Return where the last RIFF chunk of an AVI file ends; None when its size was never written."""
    place = 0
    while place + 12 <= size:
        file.seek(place)
        kind, length, form = struct.unpack("<4sI4s", file.read(12))
        if kind != b"RIFF" or form[:3] != b"AVI":
            break
        if length < 4:
            return None
        place += 8 + length + length % 2 * (place + 8 + length < size)
    return place or None


def _objects_end(file: IO[bytes], size: int) -> int | None:
    """Return where the last object of an ASF file ends; None when its size was never written."""
    place = 0
    while place + 24 <= size:
        file.seek(place + 16)
        (length,) = struct.unpack("<Q", file.read(8))
        if length < 24:
            return None
        place += length
    return place


_STRUCTURES: tuple[tuple[Callable[[bytes], bool], Callable[[IO[bytes], int], int | None]], ...] = (
    (lambda head: head[:4] == _EBML.to_bytes(4, "big"), _matroska_end),
    (lambda head: head[:4] == b"RIFF", _chunks_end),
    (lambda head: head[:4] == b"\x30\x26\xb2\x75", _objects_end),
    (lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), _boxes_end),
)
