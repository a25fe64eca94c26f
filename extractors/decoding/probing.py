"""Find out what a video file holds, from its packets rather than from its header.

The file is demuxed once, without decoding more than its first frame: presentation times, duration and rate
come from the packets, the picture's geometry from the first frame. Headers are believed only where the
packets agree.

What is refused, with a ProbeError: whatever is no regular file (addresses, pipes, folders), formats that make
one video of other files (playlists, HLS, concat, image sequences), files without a video stream, and files
whose packets end well before their declared end (truncated, or with a broken sample table). Media libraries
may open nothing but the file itself: `protocol_whitelist` and `format_whitelist` keep them to it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.errors import ProbeError, VideoChangedError

CONTAINERS = "3g2,3gp,asf,avi,dv,f4v,flv,gif,m4a,matroska,mj2,mov,mp4,mpeg,mpegts,mxf,nut,ogg,rm,webm,wtv"
"""libavformat's demuxers that may be used: each reads one file and no other."""

DECORD_CONTAINERS = frozenset({"mov", "matroska"})
DECORD_CODECS = frozenset({"h264", "hevc"})
DECORD_PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuv444p"})
"""What decord 0.6.0 decodes right when it is read in order; PyAV takes everything else."""

MISSING_END_S = 0.5
"""Seconds by which packets may end before the declared end, when that is more than `MISSING_END_SHARE`."""

MISSING_END_SHARE = 0.02
"""Share of the declared duration by which packets may end early."""

LARGEST_STEP_BACK_S = 0.5
"""Seconds by which decoding times may run backwards; joined or damaged files exceed it."""

_DECORD_MIN_SIDE = 32
_MAX_PIXEL_ASPECT = 10
_HASH_BLOCK = 64 * 1024
_HASH_BLOCKS = 16


@dataclass
class _Packets:
    """What demuxing the whole file collects about the video stream."""

    times: list[int] = field(default_factory=list)
    """Presentation times in the order of decoding, in ticks of the stream's time base."""
    durations: list[int] = field(default_factory=list)
    plain: bool = True
    """Decoding times only increase, and no packet is damaged or cut away by an edit list."""
    step_back: int = 0
    """Largest step back of decoding times, in ticks."""
    end_s: float = 0.0
    """End of the last packet of any stream, in seconds on the container's clock."""
    _latest: int | None = None

    def add(self, packet: Any, time: int) -> None:
        """Take note of a packet of the video stream that is presented at `time`."""
        if packet.is_discard:
            self.plain = False
            return
        self.times.append(time)
        self.durations.append(packet.duration or 0)
        if packet.dts is not None:
            if self._latest is not None and packet.dts <= self._latest:
                self.plain = False
                self.step_back = max(self.step_back, self._latest - packet.dts)
            self._latest = packet.dts
        self.plain = self.plain and not packet.is_corrupt

    @cached_property
    def timestamps(self) -> np.ndarray:
        """Presentation times in ascending order, from 0."""
        times = np.sort(np.array(self.times, dtype=np.int64))
        return times - times[0]

    @property
    def last_duration(self) -> int:
        """Ticks for which the last frame is presented; 0 when that is not known."""
        return self.durations[int(np.argmax(self.times))]

    @property
    def ordinary(self) -> bool:
        """Whether the first packet is the first frame, each frame has a time of its own, and all is plain."""
        return self.plain and self.times[0] == min(self.times) and bool(np.all(np.diff(self.timestamps) > 0))


@dataclass(frozen=True)
class SourceFile:
    """Which content a file had."""

    path: Path
    size: int
    """Bytes."""
    modified_ns: int
    quick_hash: str
    """sha256 of the size and the content, or of 16 evenly spaced blocks of 64 KiB where that is more than 1 MiB."""

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """Look at a file now, reading at most 1 MiB; ProbeError when it is no regular file with content."""
        status = _refuse_irregular(path)
        digest = hashlib.sha256(str(status.st_size).encode())
        last_start = max(status.st_size - _HASH_BLOCK, 0)
        try:
            with open(path, "rb") as file:
                for block in range(_HASH_BLOCKS):
                    if status.st_size > _HASH_BLOCKS * _HASH_BLOCK:
                        file.seek(last_start * block // (_HASH_BLOCKS - 1))
                    digest.update(file.read(_HASH_BLOCK))
        except OSError as error:
            raise ProbeError(f"{path} cannot be read: {error.strerror}") from error
        return cls(path, status.st_size, status.st_mtime_ns, digest.hexdigest())

    def refuse_changed(self) -> None:
        """Raise VideoChangedError when the file is no longer the one that was looked at."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise VideoChangedError(f"{self.path} vanished while it was read: {error.strerror}") from error
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
            raise VideoChangedError(
                f"{self.path} changed while it was read: {self.size} bytes before, {status.st_size} after"
            )


def probe(path: Path, on_progress: Callable[[], None] = lambda: None) -> VideoInfo:
    """Measure a video file.

    `on_progress` is called as packets arrive. Raises ProbeError when the file is no video that can be read.
    """
    with open_container(path) as container:
        stream = video_stream(container, path)
        frame = _first_frame(container, stream, path)
    with open_container(path) as container:
        stream = video_stream(container, path)
        packets = _read_packets(container, stream, path, on_progress)
        _refuse_damaged(container, stream, packets, path)
        return _describe(path, container, stream, frame, packets)


def open_container(path: Path) -> Any:
    """Open a regular file with PyAV, kept to that file alone; raises ProbeError with what was found."""
    _refuse_irregular(path)
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    try:
        return av.open(os.path.abspath(path), options=options, metadata_errors="replace")
    except FFmpegError as error:
        raise ProbeError(f"{path} is not a video that can be read: {_reason(error)}") from error


def video_stream(container: Any, path: Path) -> Any:
    """Return the first stream of moving pictures; cover art is none. Raises ProbeError when there is none."""
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if streams and streams[0].codec_context is None:
        raise ProbeError(f"{path}: its video is coded in a way that nothing here can decode")
    if streams:
        return streams[0]
    found = ", ".join(stream.type for stream in container.streams) or "nothing"
    raise ProbeError(f"{path} has no video stream, it holds: {found}")


def display_size(width: int, height: int, pixel_aspect: Fraction | None, rotation: int) -> tuple[int, int]:
    """Return (width, height) in square pixels after rotation; no side is ever scaled down."""
    if pixel_aspect and 1 / _MAX_PIXEL_ASPECT <= pixel_aspect <= _MAX_PIXEL_ASPECT:
        if pixel_aspect > 1:
            width = round(width * pixel_aspect)
        else:
            height = round(height / pixel_aspect)
    return (height, width) if rotation % 180 else (width, height)


def frame_rotation(frame: Any) -> int:
    """Return the quarter turns counter-clockwise, in degrees, that display a decoded PyAV frame upright."""
    return round((getattr(frame, "rotation", 0) or 0) / 90) * 90 % 360


def _refuse_irregular(path: Path) -> os.stat_result:
    """Refuse what is no regular file before any media library sees its name."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        hint = "addresses and protocols are not read; " if ":" in str(path) else ""
        reason = getattr(error, "strerror", None) or str(error)
        raise ProbeError(f"{path}: expected a video file; {hint}{reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ProbeError(f"{path}: expected a video file, found a folder, pipe or device")
    if status.st_size == 0:
        raise ProbeError(f"{path} is empty (0 bytes)")
    return status


def _is_cover(stream: Any) -> bool:
    return bool(int(stream.disposition) & int(type(stream.disposition).attached_pic))


def _first_frame(container: Any, stream: Any, path: Path) -> Any:
    """Decode packets until one frame comes out; damaged packets are passed over."""
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except FFmpegError:
                continue
            if frames:
                return frames[0]
    except FFmpegError as error:
        raise ProbeError(f"{path} cannot be read: {_reason(error)}") from error
    raise ProbeError(f"{path}: no frame of its {stream.codec_context.name} video can be decoded")


def _read_packets(container: Any, stream: Any, path: Path, on_progress: Callable[[], None]) -> _Packets:
    packets = _Packets()
    try:
        # Naming the streams leaves out those that damaged data makes up on the way.
        for packet in container.demux(*container.streams):
            on_progress()
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None or not packet.size:
                continue
            packets.end_s = max(packets.end_s, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index == stream.index:
                packets.add(packet, time)
    except (FFmpegError, IndexError) as error:
        raise ProbeError(f"{path} cannot be read to its end: {_reason(error)}") from error
    if not packets.times:
        raise ProbeError(f"{path}: its {stream.codec_context.name} video stream holds no frame with a time")
    return packets


def _refuse_damaged(container: Any, stream: Any, packets: _Packets, path: Path) -> None:
    """Compare the packets' end with what the header declares, and refuse times that run backwards."""
    declared, found = _declared_end(container, stream, packets)
    if declared - found > _end_tolerance(declared):
        raise ProbeError(
            f"{path} declares {declared:.2f} s of video, but its frames end at {found:.2f} s: truncated or "
            "damaged; get the whole file, or remux it to accept what is there (ffmpeg -i FILE -c copy NEW)"
        )
    step_back = float(packets.step_back * stream.time_base)
    if step_back > LARGEST_STEP_BACK_S:
        raise ProbeError(
            f"{path}: its times run {step_back:.2f} s backwards, so it was joined of several files or is damaged; "
            "encode it anew (ffmpeg -i FILE NEW)"
        )


def _declared_end(container: Any, stream: Any, packets: _Packets) -> tuple[float, float]:
    """Return where the header says that the video ends, or else the file, and where its packets do, in seconds."""
    if stream.duration:
        found = int(packets.timestamps[-1]) + packets.last_duration
        return float(stream.duration * stream.time_base), float(found * stream.time_base)
    if container.duration:
        return container.duration / av.time_base, packets.end_s
    return packets.end_s, packets.end_s


def _end_tolerance(declared: float) -> float:
    return max(MISSING_END_S, MISSING_END_SHARE * declared)


def _describe(path: Path, container: Any, stream: Any, frame: Any, packets: _Packets) -> VideoInfo:
    time_base = Fraction(stream.time_base)
    fps = _frame_rate(stream, packets.timestamps, time_base)
    last = packets.last_duration or max(1, round(1 / (fps * time_base)))
    rotation = frame_rotation(frame)
    width, height = display_size(frame.width, frame.height, stream.sample_aspect_ratio, rotation)
    container_name = container.format.name.split(",")[0]
    codec = stream.codec_context.codec.canonical_name
    trusted = (
        container_name in DECORD_CONTAINERS
        and codec in DECORD_CODECS
        and _suits_decord(container, stream, frame, packets)
        # decord shows the picture as it is coded, neither turned nor with square pixels.
        and rotation == 0
        and (width, height) == (frame.width, frame.height)
    )
    return VideoInfo(
        path=path,
        width=width,
        height=height,
        fps=fps,
        duration_s=float((int(packets.timestamps[-1]) + last) * time_base),
        timestamps=packets.timestamps,
        time_base=time_base,
        codec=codec,
        container=container_name,
        rotation=rotation,
        decoder="decord" if trusted else "pyav",
    )


def _suits_decord(container: Any, stream: Any, frame: Any, packets: _Packets) -> bool:
    """Say whether decord may be trusted with a stream; it is checked again when it has opened the file.

    Nothing may depend on which of several streams it picks, on times that contradict one another, or on
    frames that are coded but not shown; and it tears pictures narrower than its row alignment.
    """
    declared, found = _declared_end(container, stream, packets)
    return (
        frame.format.name in DECORD_PIXEL_FORMATS
        and min(frame.width, frame.height) >= _DECORD_MIN_SIDE
        and len(container.streams.video) == 1
        and packets.ordinary
        and found - declared <= _end_tolerance(declared)
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


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")
