"""What has to be known of a film to cut it and to name its frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.decoding.containers import open_container
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.seeking import SeekingStream
from mesm.extractors.errors import ProbeError
from mesm.pipeline.config.errors import PipelineError


@dataclass(frozen=True, eq=False)
class Source:
    """A film, measured once for all its moments. Seconds are counted from the file's start, as a player shows them."""

    info: VideoInfo
    keys: np.ndarray
    """(n,) int64: presentation times of the key frames, in ticks from the first frame, ascending."""
    stream: int
    """Number of the stream of pictures in the container."""
    sounds: int
    """Number of streams of sound."""
    clock_s: float
    """Start of the container's clock, from which ffmpeg counts."""
    timecode: str = ""
    """Timecode of the first frame that the camera wrote, where it did."""

    @classmethod
    def of(cls, path: Path) -> Source:
        """Measure a file; ProbeError says why it is no film."""
        info = probe(path)
        with open_container(path) as container:
            assert info.track is not None
            stream = container.streams[info.track]
            try:
                keys = _key_times(container, stream)
            except FFmpegError as error:
                raise ProbeError(f"{path} cannot be read to its end: {error}") from error
            return cls(
                info,
                np.unique(np.array(keys or [info.origin], np.int64)) - info.origin,
                stream.index,
                len(container.streams.audio),
                (container.start_time or 0) / av.time_base,
                _timecode(container),
            )

    @property
    def path(self) -> Path:
        """The file."""
        return self.info.path

    @cached_property
    def seconds(self) -> np.ndarray:
        """(frames + 1,) float64: start of each frame, and the end of the last one."""
        starts = float(self.info.start_s) + self.info.timestamps * float(self.info.time_base)
        return np.append(starts, max(self.info.duration_s, starts[-1]))

    @property
    def start_s(self) -> float:
        """The file's start on the container's clock."""
        return float(self.info.origin * self.info.time_base - self.info.start_s)

    def edge(self, seconds: float) -> int:
        """Return the number of the frame whose start is nearest to a time, or of frames where that is the end."""
        return int(np.abs(self.seconds - seconds).argmin())

    def frames(self, start_s: float, end_s: float) -> tuple[int, int]:
        """Return the first frame of a moment and the one after its last; one frame at least.

        Both ends lie within half a frame of what is asked. PipelineError when the moment lies outside the film.
        """
        if not 0 <= start_s < end_s:
            raise PipelineError(f"a moment from {start_s:g} s to {end_s:g} s cannot be; give a start before its end")
        if start_s >= self.info.duration_s:
            raise PipelineError(f"{self.path} ends at {self.info.duration_s:.3f} s, before the start at {start_s:g} s")
        first = min(self.edge(start_s), self.info.frame_count - 1)
        return first, max(self.edge(end_s), first + 1)

    def key_before(self, seconds: float) -> float:
        """Return the time of the last key frame that is not later than a time, or of the first key frame."""
        ticks = (seconds - float(self.info.start_s)) / float(self.info.time_base) + 0.5
        key = self.keys[max(int(np.searchsorted(self.keys, ticks, side="right")) - 1, 0)]
        return float(self.info.start_s + int(key) * self.info.time_base)

    def open(self) -> SeekingStream:
        """Open the film to look at some of its frames."""
        return SeekingStream(self.info)


def _key_times(container: Any, stream: Any) -> list[int]:
    """Return presentation times of all key frames, shown or cut away."""
    keys = []
    for packet in container.demux(stream):
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or not packet.size:
            continue
        if packet.is_keyframe:
            keys.append(time)
    return keys


def _timecode(container: Any) -> str:
    found = (part.metadata.get("timecode", "") for part in (container, *container.streams))
    return next((text for text in found if text), "")
