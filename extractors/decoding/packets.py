"""What demuxing a whole file tells of its video tracks, and which of them is the film."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from mesm.extractors.errors import ProbeError

MADE_UP_TIMES = frozenset({"avi"})
"""Containers without presentation times: those that are made up for them skip and repeat."""

_EXACT_S = Fraction(1, 10**6)
"""The container's start is rounded to this."""


@dataclass
class Packets:
    """What demuxing the whole file collects about one video stream."""

    times: list[int] = field(default_factory=list)
    """Presentation times in the order of decoding, in ticks of the stream's time base."""
    durations: list[int] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    """Whether each packet can be decoded by itself."""
    plain: bool = True
    """Decoding times only increase, and no packet is damaged or cut away by an edit list."""
    discarded: int = 0
    """Packets that an edit list cuts away."""
    step_back: int = 0
    """Largest step back of decoding times, in ticks."""
    first_dts: int | None = None
    _latest: int | None = None

    def add(self, packet: Any, time: int) -> None:
        """Take note of a packet of the video stream that is presented at `time`."""
        if packet.is_discard:
            self.plain = False
            self.discarded += 1
            return
        self.times.append(time)
        self.durations.append(packet.duration or 0)
        self.keys.append(packet.is_keyframe)
        if packet.dts is not None:
            if self._latest is not None and packet.dts <= self._latest:
                self.plain = False
                self.step_back = max(self.step_back, self._latest - packet.dts)
            self._latest = packet.dts
            self.first_dts = packet.dts if self.first_dts is None else self.first_dts
        self.plain = self.plain and not packet.is_corrupt

    @cached_property
    def shown(self) -> np.ndarray:
        """Presentation times in ascending order, in ticks as the file states them."""
        return np.sort(np.array(self.times, dtype=np.int64))

    @cached_property
    def timestamps(self) -> np.ndarray:
        """Presentation times in ascending order, from 0."""
        return self.shown - self.shown[0]

    @property
    def last_duration(self) -> int:
        """Ticks for which the last frame is presented; 0 when that is not known."""
        return self.durations[int(np.argmax(self.times))]

    @property
    def ordinary(self) -> bool:
        """Whether the first packet is the first frame, each frame has a time of its own, and all is plain."""
        return self.plain and self.times[0] == min(self.times) and bool(np.all(np.diff(self.timestamps) > 0))

    def start(self, container: Any, begin: Fraction, time_base: Fraction) -> Fraction:
        """Return the seconds from the container's start, at `begin` on its clock, to the first frame; not below 0."""
        first = int(self.shown[0])
        if container.format.name in MADE_UP_TIMES and self.first_dts is not None:
            first = self.first_dts
        start = first * time_base - begin
        return start if start > _EXACT_S else Fraction(0)

    def undecodable_lead(self, container: Any, first: int) -> int:
        """Return how many frames come before the first one that a decoder gave, at `first`, for want of a key frame.

        So begin recordings of broadcasts, and cuts between key frames. 0 where a key frame is among them, and in MP4,
        whose edit lists hide such frames: there they are damaged.
        """
        if "mp4" in container.format.name:
            return 0
        early = [key for time, key in zip(self.times, self.keys, strict=True) if time < first]
        return 0 if any(early) else len(early)


@dataclass
class FilePackets:
    """What demuxing collects about a file."""

    tracks: dict[int, Packets] = field(default_factory=dict)
    """Video tracks that hold a frame, by stream index."""
    end_s: float = 0.0
    """End of the last packet of any stream, in seconds on the container's clock."""
    firsts: dict[int, Fraction] = field(default_factory=dict)
    """Earliest time of each stream of pictures or sound, in seconds on the container's clock."""

    def begin(self, container: Any) -> Fraction:
        """Return where the file starts for a player, in seconds on the container's clock."""
        if container.start_time is None:
            return min(self.firsts.values(), default=Fraction(0))
        return Fraction(container.start_time, av.time_base)


def read_packets(container: Any, path: Path, on_progress: Callable[[], None]) -> FilePackets:
    """Demux a whole file; ProbeError when that is not possible to its end."""
    found = FilePackets()
    earliest: dict[Any, int] = {}
    try:
        # Naming the streams leaves out those that damaged data makes up on the way.
        for packet in container.demux(*container.streams):
            on_progress()
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None or not packet.size:
                continue
            found.end_s = max(found.end_s, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream.type in ("video", "audio") and not packet.is_discard:
                earliest[packet.stream] = min(earliest.get(packet.stream, time), time)
            if packet.stream.type == "video":
                found.tracks.setdefault(packet.stream.index, Packets()).add(packet, time)
    except (FFmpegError, IndexError) as error:
        raise ProbeError(f"{path} cannot be read to its end: {reason(error)}") from error
    found.firsts = {stream.index: time * Fraction(stream.time_base) for stream, time in earliest.items()}
    found.tracks = {index: packets for index, packets in found.tracks.items() if packets.times}
    return found


def video_streams(container: Any, path: Path) -> list[Any]:
    """Return the streams of moving pictures that can be decoded; cover art is none. ProbeError when there is none."""
    streams = [stream for stream in container.streams.video if not _marked(stream, "attached_pic")]
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if decodable:
        return decodable
    if streams:
        raise ProbeError(f"{path}: its video is coded in a way that nothing here can decode")
    found = ", ".join(stream.type for stream in container.streams) or "nothing"
    raise ProbeError(f"{path} has no video stream, it holds: {found}")


def choose_track(streams: Sequence[Any], found: FilePackets, path: Path) -> Any:
    """Return the stream that a player shows. Raises ProbeError when none holds a frame.

    No single picture, such as a preview without a mark, is taken beside a film. Then a track that is marked as the
    default comes first, then the largest picture, then the first track that has not less than half of the most frames.
    """
    filled = [stream for stream in streams if stream.index in found.tracks]
    if not filled:
        raise ProbeError(f"{path}: its {streams[0].codec_context.name} video stream holds no frame with a time")
    counts = {stream.index: len(found.tracks[stream.index].times) for stream in filled}

    def rank(stream: Any) -> tuple[bool, bool, int]:
        codec = stream.codec_context
        return counts[stream.index] > 1, _marked(stream, "default"), codec.width * codec.height

    best = max(map(rank, filled))
    equal = [stream for stream in filled if rank(stream) == best]
    most = max(counts[stream.index] for stream in equal)
    return next(stream for stream in equal if 2 * counts[stream.index] >= most)


def reason(error: Exception) -> str:
    """Return a media library's own words for an error."""
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def _marked(stream: Any, mark: str) -> bool:
    return bool(int(stream.disposition) & int(getattr(type(stream.disposition), mark)))
