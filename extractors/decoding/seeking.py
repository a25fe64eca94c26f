"""Some frames of a long video: found by seeking, where `streams` reads from the first frame on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from av.error import FFmpegError

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.decoding.containers import open_track
from mesm.extractors.decoding.streams import PyavStream
from mesm.extractors.errors import DecodeError

NEAR_S = 2.0
"""A frame so little later than the last one is reached by decoding on."""
EARLIER_S = (0.0, 10.0, 60.0)
"""How far before a frame to seek, one after the other, where a container seeks too far."""


class SeekingStream(PyavStream):
    """Frames of one video by number, in any order; a context manager."""

    def __init__(self, info: VideoInfo) -> None:
        """Open a probed file; ProbeError when it cannot be opened."""
        super().__init__(info)
        self._frames: Iterator[object] | None = None
        self._latest = -1

    def __enter__(self) -> SeekingStream:
        return self

    def pictures_of(
        self, numbers: Iterable[int], size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (frame number, (height, width, 3) uint8) of frames in ascending order; DecodeError.

        size: (height, width) of the pictures; by default that of the video as displayed. A frame that cannot be decoded
        is left out.
        """
        height, width = size or (self.info.height, self.info.width)
        for number in sorted(set(numbers)):
            frame = self._reach(number)
            if frame is not None:
                yield number, self._converter.convert(frame, height, width)

    def _reach(self, number: int) -> object | None:
        ticks, tick_s = self.info.timestamps, float(self.info.time_base)
        ahead = (ticks[number] - ticks[self._latest]) * tick_s if self._latest >= 0 else np.inf
        if 0 < ahead <= NEAR_S or (self._counted and number > self._latest):
            return self._read_to(number)
        for earlier in () if self._counted else EARLIER_S:
            self._seek(max(int(ticks[number] - earlier / tick_s), 0) + self.info.origin)
            frame = self._read_to(number)
            if frame is not None:
                return frame
        self._begin_again()
        return self._read_to(number)

    def _seek(self, place: int) -> None:
        """Go to the last key frame that is presented before a time, or to where the container takes that to be."""
        try:
            self._container.seek(place, stream=self._stream, backward=True)
        except FFmpegError as error:
            raise DecodeError(f"{self.info.path} cannot be searched: {error}") from error
        self._frames, self._latest = None, -1

    def _begin_again(self) -> None:
        self._container.close()
        assert self.info.track is not None
        self._container, self._stream = open_track(self.info.path, self.info.track, threads=1)
        self._frames, self._latest = None, -1

    def _read_to(self, number: int) -> object | None:
        """Decode on, up to a frame; None when it does not come."""
        if self._frames is None:
            self._frames = self._decoded()
        for frame in self._frames:
            found = self._number(frame, self._latest + 1)
            self._latest = max(found, self._latest)
            if found == number:
                return frame
            if found > number:
                return None
        return None
