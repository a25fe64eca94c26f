"""Find out what a video file holds, from its packets rather than from its header.

The file is demuxed once, without decoding more than its first frame: presentation times, duration and rate
come from the packets, the picture's geometry from the first frame. Headers are believed only where the
packets agree. Times count from the container's start, as a player shows them: where sound begins before the
pictures, the first frame is not at 0.

What is refused, with a ProbeError: whatever is no regular file (addresses, pipes, folders), formats that make
one video of other files (playlists, HLS, concat, image sequences), files without a video stream, files
whose packets end well before their declared end (truncated, or with a broken sample table), and pictures of
more than `MAX_PIXELS`. Media libraries may open nothing but the file itself: `protocol_whitelist` and
`format_whitelist` keep them to it.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError

from mesm.extractors.contracts import READING_RULE, VideoInfo
from mesm.extractors.decoding.container_crop import container_crop
from mesm.extractors.decoding.containers import MAX_PIXELS, open_container, open_track
from mesm.extractors.decoding.file_ends import check_end, declared_end, end_tolerance, lost_frames
from mesm.extractors.decoding.packets import FilePackets, choose_track, read_packets, reason, video_streams
from mesm.extractors.decoding.picture_shape import PLAIN_TURNS, Filters, display_matrix, display_size, upright
from mesm.extractors.decoding.source_file import SourceFile
from mesm.extractors.errors import ProbeError

__all__ = ["SourceFile", "open_container", "open_track", "probe"]

DECORD_CONTAINERS = frozenset({"mov", "matroska"})
DECORD_CODECS = frozenset({"h264", "hevc"})
DECORD_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuv444p"})
"""What decord 0.6.0 decodes right when it is read in order; PyAV takes everything else."""

MAX_DURATION_S = 48 * 3600
"""Longest film: more rows than it has would fill the memory, and so would those of damaged times."""

_DECORD_MIN_SIDE = 32


@dataclass(frozen=True)
class _Geometry:
    """What the first decoded frame tells of the picture."""

    width: int
    """Pixels of the coded picture that are shown, as is `height`."""
    height: int
    pixel_format: str
    time: int | None
    """Presentation time, in ticks."""
    rotation: int
    filters: Filters
    rule: int
    """The first version of the reading rules that shows this picture as it is shown now."""


def probe(path: Path, on_progress: Callable[[], None] = lambda: None) -> VideoInfo:
    """Measure a video file.

    `on_progress` is called as packets arrive. Raises ProbeError when the file is no video that can be read.
    """
    with open_container(path) as container:
        streams = video_streams(container, path)
        found = read_packets(container, path, on_progress)
        stream = choose_track(streams, found, path)
        _refuse_huge(stream, path)
        held_to = check_end(container, stream, found, path)
        shown = [one.index for one in container.streams.video].index(stream.index)
        geometry = _geometry(path, container.format.name.split(",")[0], stream.index, shown)
        return _describe(path, container, stream, geometry, found, held_to)


def _refuse_huge(stream: Any, path: Path) -> None:
    """Refuse pictures whose stated size is beyond the bound; where none is stated, it holds as they are decoded."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise ProbeError(_too_large(path, width, height))


def _too_large(path: Path, width: int, height: int) -> str:
    return f"{path}: pictures of {width}x{height} pixels are too large to decode; the most is {MAX_PIXELS:,} pixels"


def _geometry(path: Path, container: str, track: int, video: int) -> _Geometry:
    """Decode the first frame of a track, which is the `video`-th with pictures, and see how it is to be shown."""
    frame, size = _first_frame(path, track, exact_crop=False)
    rule = 0
    if size != (frame.width, frame.height):
        # Decoders crop at the left by whole words of memory alone, unless they are told otherwise.
        exact, _ = _first_frame(path, track, exact_crop=True)
        rule = READING_RULE * ((exact.width, exact.height) != (frame.width, frame.height))
        frame = exact
    matrix = display_matrix(frame)
    rotation, filters = upright(matrix)
    if filters not in PLAIN_TURNS or (matrix is None and frame.side_data.get("DISPLAYMATRIX") is not None):
        rule = READING_RULE
    width, height = frame.width, frame.height
    crop = container_crop(path, container, video, width, height)
    if crop is not None:
        rule = READING_RULE
        width, height = width - crop.left - crop.right, height - crop.top - crop.bottom
        filters = (crop.filter, *filters)
    return _Geometry(width, height, frame.format.name, frame.pts, rotation, filters, rule)


def _first_frame(path: Path, track: int, exact_crop: bool) -> tuple[Any, tuple[int, int]]:
    """Decode packets until one frame comes out, damaged ones passed over; return it and the size that is stated."""
    container, stream = open_track(path, track, exact_crop=exact_crop)
    codec = stream.codec_context
    found = ""
    with container:
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except FFmpegError as error:
                    found = f" ({reason(error)})"
                    continue
                if frames:
                    return frames[0], (codec.width, codec.height)
        except FFmpegError as error:
            raise ProbeError(f"{path} cannot be read: {reason(error)}") from error
        raise ProbeError(
            f"{path}: no frame of its {codec.name} video can be decoded{found}, or its pictures have more than "
            f"{MAX_PIXELS:,} pixels"
        )


def _describe(
    path: Path, container: Any, stream: Any, geometry: _Geometry, found: FilePackets, held_to: Fraction | None
) -> VideoInfo:
    time_base = Fraction(stream.time_base)
    packets = found.tracks[stream.index]
    shown = packets.shown
    if geometry.time is not None:
        shown = shown[packets.undecodable_lead(container, geometry.time) :]
    start = packets.start(container, found.begin(container), time_base) + int(shown[0] - packets.shown[0]) * time_base
    timestamps = shown - shown[0]
    fps = _frame_rate(stream, timestamps, time_base)
    last = packets.last_duration or max(1, round(1 / (fps * time_base)))
    end = start + (int(timestamps[-1]) + last) * time_base
    if held_to is not None:
        end = max(end, held_to)
    if end > MAX_DURATION_S:
        raise ProbeError(
            f"{path} lasts {float(end):.0f} s by the times of its frames; the most is {MAX_DURATION_S} s: cut it into "
            "parts, or its times are damaged"
        )
    width, height = display_size(geometry.width, geometry.height, stream.sample_aspect_ratio, geometry.rotation)
    if width * height > MAX_PIXELS:
        raise ProbeError(_too_large(path, width, height))
    first_track = video_streams(container, path)[0]
    as_first = start == 0 and geometry.rule == 0 and stream.index == first_track.index
    trusted = (
        _suits_decord(container, stream, geometry, found)
        # decord shows the picture as it is coded, neither turned nor with square pixels.
        and not geometry.filters
        and geometry.rule == 0
        and (width, height) == (geometry.width, geometry.height)
        and len(timestamps) == len(packets.shown)
    )
    return VideoInfo(
        path=path,
        width=width,
        height=height,
        fps=fps,
        duration_s=float(end),
        timestamps=timestamps,
        time_base=time_base,
        codec=stream.codec_context.codec.canonical_name,
        container=container.format.name.split(",")[0],
        rotation=geometry.rotation,
        decoder="decord" if trusted else "pyav",
        start_s=start,
        origin=int(shown[0]),
        track=stream.index,
        upright=geometry.filters,
        lost=lost_frames(container, stream, packets, path),
        rule=0 if as_first else READING_RULE,
    )


def _suits_decord(container: Any, stream: Any, geometry: _Geometry, found: FilePackets) -> bool:
    """Say whether decord may be trusted with a stream; it is checked again when it has opened the file.

    Nothing may depend on which of several streams it picks, on times that contradict one another, or on
    frames that are coded but not shown; and it tears pictures narrower than its row alignment.
    """
    declared, end = declared_end(container, stream, found)
    return (
        container.format.name.split(",")[0] in DECORD_CONTAINERS
        and stream.codec_context.codec.canonical_name in DECORD_CODECS
        and geometry.pixel_format in DECORD_PIXEL_FORMATS
        and min(geometry.width, geometry.height) >= _DECORD_MIN_SIDE
        and len(container.streams.video) == 1
        and found.tracks[stream.index].ordinary
        and end - declared <= end_tolerance(declared)
        and importlib.util.find_spec("decord") is not None
    )


def _frame_rate(stream: Any, timestamps: np.ndarray, time_base: Fraction) -> Fraction:
    """Return the rate of the packets; a header's rate that agrees to a tick is its unrounded form."""
    span = int(timestamps[-1])
    declared = [Fraction(rate) for rate in _rates(stream)]
    if span == 0:
        return next(iter(declared), Fraction(1))
    frames = len(timestamps) - 1
    for rate in declared:
        if abs(frames / rate - span * time_base) <= time_base:
            return rate
    return frames / (span * time_base)


def _rates(stream: Any) -> Iterable[Fraction]:
    rates = (stream.average_rate, stream.base_rate, stream.guessed_rate)
    return (rate for rate in rates if rate and math.isfinite(rate) and rate > 0)
