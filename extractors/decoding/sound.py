"""The sound of a film as one channel of numbers, some seconds at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError, InvalidDataError

from mesm.extractors.decoding.containers import open_container
from mesm.extractors.decoding.packets import reason
from mesm.extractors.errors import DecodeError

RATE = 16000
"""Samples a second."""
_GAP_S = 0.1
"""Silence that is missing between two pieces of sound counts from here; less is rounding of their times."""
_LARGEST_GAP_S = 6 * 3600.0
"""A piece of sound that states a later time is taken to follow at once: its time is wrong."""


class SoundReader:
    """Reads the first sound track of a film forwards; no more than what is asked for is held.

    Seconds count from the film's start as a player shows it: where the sound begins later, or has a gap, is silence.
    """

    def __init__(self, path: Path) -> None:
        """Open a file; ProbeError when it cannot be opened."""
        self._path = path
        self._container = open_container(path)
        tracks = [track for track in self._container.streams.audio if track.codec_context is not None]
        self._track: Any = tracks[0] if tracks else None
        self._start, self._held, self._end = 0, np.zeros(0, np.float32), False
        self._parts = self._decoded()

    @property
    def silent(self) -> bool:
        """Whether the film has no sound track that can be decoded."""
        return self._track is None

    def read(self, start_s: float, seconds: float) -> np.ndarray:
        """Return the samples (n,) float32 of some seconds, fewer at the end of the sound; `start_s` never goes back.

        Raises DecodeError when the sound cannot be decoded.
        """
        start, count = round(start_s * RATE), round(seconds * RATE)
        if start < self._start:
            raise ValueError(f"sound is read forwards; {start_s} s was read before")
        held, later = [self._held], self._start + len(self._held)
        while not self._end and later < start + count:
            part = next(self._parts, None)
            if part is None:
                self._end = True
                break
            later += len(part)
            held.append(part)
            if later <= start:
                held = [part[:0]]
        samples = np.concatenate(held)
        first = later - len(samples)
        self._held, self._start = samples[max(0, start - first) :], max(start, first)
        return self._held[:count]

    def close(self) -> None:
        """Let go of the file."""
        self._parts.close()
        self._container.close()

    def __enter__(self) -> SoundReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decoded(self) -> Generator[np.ndarray, None, None]:
        """Yield samples without a gap from the film's start on."""
        if self.silent:
            return
        begin = (self._container.start_time or 0) / av.time_base
        clock = 0
        for part in self._resampled():
            stated = round((part.time - begin) * RATE) if part.pts is not None else clock
            gap = stated - clock
            if _GAP_S * RATE < gap < _LARGEST_GAP_S * RATE:
                for length in (*[RATE] * (gap // RATE), gap % RATE):
                    yield np.zeros(length, np.float32)
                clock = stated
            samples = part.to_ndarray().reshape(-1).astype(np.float32)
            if not clock:
                samples = samples[max(0, -stated) :]  # what lies before the film's start
            clock += len(samples)
            yield samples

    def _resampled(self) -> Iterator[Any]:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        try:
            for packet in self._container.demux(self._track):
                try:
                    frames = packet.decode()
                except InvalidDataError:
                    continue  # a torn packet: the time of the next one says how much is missing
                for frame in frames:
                    yield from resampler.resample(frame)
            yield from resampler.resample(None)
        except (FFmpegError, ValueError) as error:
            raise DecodeError(f"the sound of {self._path} cannot be decoded: {reason(error)}") from error
