"""Read films in a process of their own, so that a decoder that crashes or hangs fails one test and no more."""

from __future__ import annotations

import multiprocessing
import traceback
import zlib
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from media import COLOURS, GREYS, band_colours, read_number

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.streams import open_stream
from mesm.extractors.errors import VideoError

START_TIMEOUT_S = 120.0
READ_TIMEOUT_S = 60.0


@dataclass
class Reading:
    """What one decoder made of one file."""

    info: VideoInfo | None = None
    decoder: str = ""
    frames: list[int] = field(default_factory=list)
    """Frame numbers as the stream gave them."""
    painted: list[int | None] = field(default_factory=list)
    """Frame numbers as painted on the pictures; None where unreadable."""
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    grey_error: float = 0.0
    """Largest difference of a grey to what was painted, of 255."""
    colour_error: float = 0.0
    checksum: int = 0
    """Of all pixels."""
    missing: int = 0
    error: VideoError | None = None

    @property
    def wrong(self) -> int:
        """How many pictures are not the one that their place calls for."""
        return sum(frame != painted for frame, painted in zip(self.frames, self.painted, strict=True))

    def add(self, number: int, rgb: np.ndarray) -> None:
        """Take note of one frame."""
        self.frames.append(number)
        self.shapes.add(rgb.shape)
        self.kinds.add(str(rgb.dtype))
        self.painted.append(read_number(rgb))
        self.checksum = zlib.crc32(np.ascontiguousarray(rgb).data, self.checksum)
        if min(rgb.shape[:2]) >= 16:
            greys = np.array(GREYS)[:, None]
            self.grey_error = max(self.grey_error, np.abs(band_colours(rgb, 2, 4) - greys).max())
            self.colour_error = max(self.colour_error, np.abs(band_colours(rgb, 3, 4) - np.array(COLOURS)).max())


def read_film(path: Path, decoder: str | None = None) -> Reading:
    """Probe a file and read all of its frames, with the decoder of that name or the one that the probe chose."""
    reading = Reading()
    try:
        info = reading.info = probe(path)
        with open_stream(replace(info, decoder=decoder) if decoder else info) as stream:
            reading.decoder = stream.decoder
            for number, rgb in stream:
                reading.add(number, rgb)
            reading.missing = stream.missing
    except VideoError as error:
        reading.error = error
    return reading


class ReadingProcess:
    """One process that reads film after film; it is started anew when it died or hung."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None

    def read(self, path: Path, decoder: str | None = None, timeout_s: float = READ_TIMEOUT_S) -> Reading:
        """Read a file in the process; fails the test when that hangs, crashes or raises something untyped."""
        if self._process is None:
            self._start()
        self._connection.send((path, decoder))
        if not self._connection.poll(timeout_s):
            self.end()
            pytest.fail(f"{path.name} with {decoder or 'the chosen decoder'}: hung for {timeout_s} s")
        try:
            answer = self._connection.recv()
        except EOFError:
            self.end()
            pytest.fail(f"{path.name} with {decoder or 'the chosen decoder'}: the process crashed")
        if isinstance(answer, str):
            pytest.fail(f"{path.name}: an error that is no VideoError\n{answer}")
        assert isinstance(answer, Reading)
        return answer

    def end(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_answer, args=(other,), daemon=True)
        self._process.start()
        other.close()
        assert self._connection.poll(START_TIMEOUT_S), "the reading process does not start"
        assert self._connection.recv() == "ready"


def _answer(connection: Connection) -> None:
    connection.send("ready")
    while True:
        path, decoder = connection.recv()
        try:
            connection.send(read_film(path, decoder))
        except Exception:
            connection.send(traceback.format_exc())
