"""A moment as a film of its own: encoded anew with exact borders, or copied from a key frame on.

A copy is fast and loses nothing, but can only begin at a key frame. Where it does begin is read back from the file that
was written: its first picture is compared with those of the source's key frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from mesm.datasets.shards.publishing import replace_file
from mesm.extractors.errors import VideoError
from mesm.pipeline.show.ffmpeg_run import CutError, file_argument, open_input, run
from mesm.pipeline.show.source import Source

QUALITY = {"c:v": "libx264", "crf": 18, "preset": "medium", "pix_fmt": "yuv420p", "c:a": "aac", "b:a": "192k"}
"""Near the source to the eye, and what every player reads."""
KEY_FRAMES_TRIED = 5
"""Key frames around the expected one that a copy's first picture is compared with."""
MARGINS_S = (0.0, 10.0)
"""How far before the start to seek, one after the other, where a container without an index leads too far."""
NOTHING_BEFORE_THE_KEY_FRAME = "noise=drop=lt(pts\\,startpts)"
"""Pictures that are shown before the first key frame need those of before, which a copy leaves behind."""
COUNTED = frozenset({"avi"})
"""Containers without presentation times: their frames are counted from the first one on."""


@dataclass(frozen=True)
class Cut:
    """A film that was cut out, and what of its source it holds."""

    path: Path
    start_s: float
    """Start in the source, seconds from the file's start, as read back."""
    end_s: float
    early_s: float
    """By how much it begins before the wanted start; below half a frame, of either sign, when encoded anew."""
    late_s: float
    """By how much it ends after the wanted end."""


MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


def suffix_of(source: Source, reencode: bool) -> str:
    """Return the ending of a cut's file name: copies keep their container where it can hold them."""
    if reencode:
        return ".mp4"
    ending = source.path.suffix.lower()
    if source.info.container == "mov":
        return ending if ending in {".mp4", ".m4v"} else ".mov"
    return ".webm" if ending == ".webm" and source.info.container == "matroska" else ".mkv"


def cut(
    source: Source,
    start_s: float,
    end_s: float,
    out: Path,
    reencode: bool = False,
    force: bool = False,
    timeout_s: float | None = None,
) -> Cut:
    """Write a moment of a film to `out`, which appears under its name when it is complete.

    reencode: borders exact to half a frame each, in H.264 and AAC; ffmpeg may run for `timeout_s`. CutError when there
    is such a file already and not `force`, or when it cannot be written or read back; PipelineError when the moment
    lies outside the film.
    """
    first, behind = source.frames(start_s, end_s)
    if out.exists() and not force:
        raise CutError(f"{out} is there already; use --force to write it anew, or choose another folder")
    results = []

    def write(temporary: Path) -> None:
        muxer = MUXERS[out.suffix]
        if reencode:
            results.append(encode(source, first, behind, temporary, muxer, timeout_s=timeout_s))
        else:
            results.append(_copy(source, start_s, end_s, temporary, muxer))

    replace_file(out, write)
    start, end = results[0]
    return Cut(out, start, end, start_s - start, end - end_s)


def encode(
    source: Source,
    first: int,
    behind: int,
    out: Path,
    muxer: str,
    quality: Mapping[str, Any] = QUALITY,
    side: int | None = None,
    timeout_s: float | None = None,
) -> tuple[float, float]:
    """Encode frames with their sound, and return start and end of what was written in the source; CutError.

    side: pixels of the longer side, at most.
    """
    start, length = float(source.seconds[first]), float(source.seconds[behind] - source.seconds[first])
    frames = 0
    for margin in (*([] if source.info.container in COUNTED else MARGINS_S), None):
        if margin is None:
            picture, sound = _from_the_beginning(source, first, behind)
            options: dict[str, Any] = {}
        else:
            place = max(start - margin, 0.0)
            film = open_input(source.path, ss=_microseconds(source.start_s + place), seek_timestamp=1)
            picture, sound = film[str(source.stream)], film["a"]
            options = {"ss": _microseconds(start - place)} if place < start else {}
        if side is not None:
            bounds = (f"min({side},iw)", f"min({side},ih)")
            picture = picture.filter("scale", *bounds, force_original_aspect_ratio="decrease")
        # H.264 with halved colours needs even sides.
        streams = [picture.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2"), *([sound] if source.sounds else [])]
        options |= {"t": _microseconds(length), "frames:v": behind - first, "fps_mode": "passthrough"}
        run(to_file(streams, out, muxer, enc_time_base="demux", **options, **quality), source.path, timeout_s)
        found = _read_back(source, out)
        frames = found.info.frame_count
        if frames == behind - first:
            return start, start + float(found.seconds[-1] - found.seconds[0])
    raise CutError(f"{source.path}: the cut has {frames} frames instead of {behind - first}; the film is damaged there")


def _from_the_beginning(source: Source, first: int, behind: int) -> tuple[Any, Any]:
    """Return pictures by their number and the first sound of their time, decoded from the film's start on."""
    film = open_input(source.path)
    begin = source.start_s - source.clock_s
    start, end = (_microseconds(begin + float(source.seconds[edge])) for edge in (first, behind))
    picture = film[str(source.stream)].filter("trim", start_frame=first, end_frame=behind)
    sound = film["a:0"].filter("atrim", start=start, end=end).filter("asetpts", f"PTS-{start}/TB")
    return picture.filter("setpts", "PTS-STARTPTS"), sound


def _copy(source: Source, start_s: float, end_s: float, out: Path, muxer: str) -> tuple[float, float]:
    """Copy from a key frame on, and return which part of the source was written."""
    for margin in MARGINS_S:
        key = max(source.key_before(max(start_s - margin, 0.0)), 0.0)
        try:
            _copy_from(source, key, end_s, out, muxer)
            part = _find_in_source(source, key, out)
        except CutError as error:
            raise CutError(f"{error}; use --reencode") from error
        if part is not None and (part[0] <= start_s or source.key_before(start_s) > start_s):
            return part
    raise CutError(f"{source.path}: where the copy of this moment begins cannot be told; use --reencode")


def _copy_from(source: Source, key_s: float, end_s: float, out: Path, muxer: str) -> None:
    """Copy from the key frame at `key_s` to an end, both in seconds from the file's start."""
    # A key frame's own time, or what lies just behind it, finds that key frame.
    place = key_s + float(source.info.time_base) / 2
    options = {"fflags": "+genpts"}
    if key_s > 0 or source.keys[0] < 0:
        options |= {"ss": _microseconds(source.start_s + place), "seek_timestamp": "1"}
    else:
        # From the very beginning there is nothing to search, and some containers lose the first frame by it.
        place = source.clock_s - source.start_s
    film = open_input(source.path, **options)
    streams = [film[str(source.stream)], *([film["a"]] if source.sounds else [])]
    copying = {"c": "copy", "avoid_negative_ts": "make_zero", "bsf:v": NOTHING_BEFORE_THE_KEY_FRAME}
    run(to_file(streams, out, muxer, t=_microseconds(end_s - place), **copying), source.path)


def to_file(streams: list[Any], out: Path, muxer: str, **options: Any) -> Any:
    """Return the ffmpeg node that writes streams to a file, without the source's chapters."""
    fast = {"movflags": "+faststart"} if muxer in {"mp4", "mov"} else {}
    return ffmpeg.output(*streams, file_argument(out), f=muxer, map_chapters=-1, **fast, **options)


def _microseconds(seconds: float) -> str:
    return f"{int(seconds * 1e6) / 1e6:.6f}"


def _read_back(source: Source, written: Path) -> Source:
    try:
        return Source.of(written)
    except VideoError as error:
        raise CutError(f"{source.path}: what ffmpeg wrote of it cannot be read: {error}") from error


def _find_in_source(source: Source, place: float, written: Path) -> tuple[float, float] | None:
    """Return which part of the source a copied film shows, by its first key frame; None when none looks like it."""
    found = _read_back(source, written)
    key = int(np.searchsorted(found.info.timestamps, found.keys[0]))
    expected = source.edge(place)
    keys = source.keys[np.isin(source.keys, source.info.timestamps)]
    numbers = np.unique(np.append(np.searchsorted(source.info.timestamps, keys), expected))
    near = numbers[np.abs(numbers - expected).argsort(kind="stable")[:KEY_FRAMES_TRIED]]
    try:
        with found.open() as stream:
            shown = dict(stream.pictures_of([key]))
        with source.open() as stream:
            pictures = dict(stream.pictures_of(near.tolist()))
    except VideoError as error:
        raise CutError(f"{source.path}: a copy of this moment cannot be read: {error}") from error
    for number in near.tolist():
        if key in shown and number in pictures and np.array_equal(shown[key], pictures[number]):
            start = float(source.seconds[number])
            return start, start + float(found.seconds[-1] - found.seconds[key])
    return None
