"""Read a video's frames once, in order, as uint8 RGB: one interface, two decoders.

    info = probe(path)
    with open_stream(info) as stream:
        for number, rgb in stream:  # every frame from 0 to info.frame_count - 1, (height, width, 3)
            ...

`DecordStream` takes the files that decord decodes right when it reads them in order; `PyavStream` takes all
others. Both give the frames that ffmpeg gives, bit for bit. A decoder is added here as a subclass of
FrameStream, in `probing` as a name that `VideoInfo.decoder` may hold, and in the contract tests as one more
parameter.

Frames that cannot be decoded are shown as a player shows them: the picture before stays. When these and the
frames that PyAV marks as damaged are more than `missing_limit` allows, the stream raises DecodeError. decord
conceals damage without a word, or stops.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import pairwise
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from av.error import FFmpegError
from av.filter import Graph

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.decoding.containers import open_track
from mesm.extractors.decoding.packets import MADE_UP_TIMES
from mesm.extractors.errors import DecodeError

_UNSPECIFIED = 2
_MATRICES = {8: _UNSPECIFIED, 10: 9, **dict.fromkeys(range(11, 256), _UNSPECIFIED)}
"""Colour matrices that ffmpeg's filters refuse, by number, and those by which ffmpeg's scaler has always shown them."""

NARROW = 256
"""Pixels of width below which decord's shape of frames is checked before it is trusted."""


class Picture(Protocol):
    """One decoded frame, not yet converted."""

    def rgb(self) -> np.ndarray:
        """Return (height, width, 3) uint8 at the video's display size."""

    def scaled(self, height: int, width: int) -> np.ndarray:
        """Return (height, width, 3) uint8, scaled from the coded colours by ffmpeg's `scale` filter."""


class FrameStream:
    """Frames of one video in presentation order; a context manager and an iterator, to be read once."""

    decoder = ""

    def __init__(self, info: VideoInfo) -> None:
        """Stand for the frames of `info`; use `open_stream`."""
        self.info = info
        self.missing = 0
        """Frames so far that could not be decoded, and show the picture before, or came damaged."""

    def pictures(self, wanted: Collection[int] | None = None) -> Iterator[tuple[int, Picture | None]]:
        """Yield (frame number, picture) for every frame; the picture is None for frames not in `wanted`."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the file."""

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        for number, picture in self.pictures():
            if picture is not None:
                yield number, picture.rgb()

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _count_missing(self, frames: int, reason: str) -> None:
        self.missing += frames
        limit = missing_limit(self.info)
        if self.missing > limit:
            raise DecodeError(
                f"{self.info.path}: {self.missing} of {self.info.frame_count + self.info.lost} frames could not be"
                f" decoded by {self.decoder} (at most {limit} may be missing): {reason}"
            )


def open_stream(info: VideoInfo, threads: int = 1) -> FrameStream:
    """Open a probed file for reading with the decoder that `info` names, using up to `threads` threads.

    When decord turns out to see other frames than the probe did, PyAV takes over; `FrameStream.decoder` says
    who reads. Raises ProbeError or DecodeError when the file cannot be opened.
    """
    if info.decoder == "decord":
        stream = DecordStream.open_trusted(info, threads)
        if stream is not None:
            return stream
    return PyavStream(replace(info, decoder="pyav"), threads)


def missing_limit(info: VideoInfo) -> int:
    """Return how many frames of a video may be undecodable: 1 %, at least one."""
    return max(1, info.frame_count // 100)


DECORD_BYTES = 512 * 2**20
"""Largest size of all frames of a file that is given to decord."""


class DecordStream(FrameStream):
    """Frames by decord, whose conversion to RGB equals ffmpeg's; only ever read from first to last."""

    decoder = "decord"

    def __init__(self, info: VideoInfo, reader: Any) -> None:
        super().__init__(info)
        self._reader = reader

    @classmethod
    def open_trusted(cls, info: VideoInfo, threads: int) -> DecordStream | None:
        """Open a file; None when decord fails or disagrees with the probe about frames and times.

        Also None for a file whose frames do not fit `DECORD_BYTES`: decord decodes ahead of its reader without a bound.
        """
        import decord

        if 3 * info.width * info.height * info.frame_count > DECORD_BYTES:
            return None

        decord.logging.set_level(decord.logging.QUIET)
        try:
            reader = decord.VideoReader(os.path.abspath(info.path), ctx=decord.cpu(0), num_threads=threads)
            count = len(reader)
            starts = reader.get_frame_timestamp(np.arange(count))[:, 0] if count == info.frame_count else None
        except (decord.DECORDError, RuntimeError, UnicodeEncodeError):
            return None
        if starts is None:
            return None
        times = info.timestamps * float(info.time_base)
        # decord keeps times in single precision.
        tolerance = float(info.time_base) + 1e-6 * float(times[-1]) + 1e-6
        if np.abs(starts - starts[0] - times).max() > tolerance or not _is_rgb(info):
            return None
        return cls(info, reader)

    def pictures(self, wanted: Collection[int] | None = None) -> Iterator[tuple[int, Picture | None]]:
        """Yield (frame number, picture) for every frame; the picture is None for frames not in `wanted`."""
        import decord

        for number in range(self.info.frame_count):
            try:
                picture = _DecordPicture(self._reader.next())
            except (decord.DECORDError, StopIteration) as error:
                raise DecodeError(f"{self.info.path}: decord stopped at frame {number}") from error
            yield number, picture if wanted is None or number in wanted else None

    def close(self) -> None:
        """Release the file."""
        self._reader = None


def _is_rgb(info: VideoInfo) -> bool:
    """Tell whether decord gives three channels: in some narrow films it takes the padding of rows for a fourth."""
    import decord

    if info.width >= NARROW:
        return True
    try:
        first = decord.VideoReader(os.path.abspath(info.path), ctx=decord.cpu(0), num_threads=1).next()
    except (decord.DECORDError, StopIteration):
        # What cannot be decoded is found out, and counted, by reading.
        return True
    return tuple(first.shape) == (info.height, info.width, 3)


class _DecordPicture:
    def __init__(self, array: Any) -> None:
        self._array = array

    def rgb(self) -> np.ndarray:
        frame: np.ndarray = self._array.asnumpy()
        return frame

    def scaled(self, height: int, width: int) -> np.ndarray:
        raise DecodeError("decord gives RGB only; scaling from the coded colours needs the PyAV decoder")


class PyavStream(FrameStream):
    """Frames by PyAV, converted by ffmpeg's filters: turned upright, scaled to square pixels, to RGB."""

    decoder = "pyav"

    def __init__(self, info: VideoInfo, threads: int = 1) -> None:
        super().__init__(info)
        assert info.track is not None
        self._container, self._stream = open_track(info.path, info.track, threads)
        self._converter = _Converter(info)
        self._counted = info.container in MADE_UP_TIMES
        self.missing = info.lost
        self._last_error = "the file ends early"

    def pictures(self, wanted: Collection[int] | None = None) -> Iterator[tuple[int, Picture | None]]:
        """Yield (frame number, picture) for every frame; the picture is None for frames not in `wanted`."""
        expected, shown = 0, None
        for frame in self._decoded():
            number = self._number(frame, expected)
            if not expected <= number < self.info.frame_count:
                continue
            picture = _PyavPicture(frame, self._converter)
            damaged = number - expected + bool(frame.is_corrupt)
            self._count_missing(damaged, "damaged data" if frame.is_corrupt else self._last_error)
            for held in range(expected, number):
                yield held, (shown or picture) if wanted is None or held in wanted else None
            yield number, picture if wanted is None or number in wanted else None
            expected, shown = number + 1, picture
        if shown is None:
            raise DecodeError(f"{self.info.path}: no frame could be decoded: {self._last_error}")
        self._count_missing(self.info.frame_count - expected, self._last_error)
        for held in range(expected, self.info.frame_count):
            yield held, shown if wanted is None or held in wanted else None

    def close(self) -> None:
        """Release the file."""
        self._container.close()

    def _decoded(self) -> Iterator[Any]:
        """Yield what the decoder puts out, passing over packets that it rejects."""
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except FFmpegError as error:
                    self._last_error = str(error)
                    continue
                yield from frames
        except FFmpegError as error:
            raise DecodeError(f"{self.info.path} cannot be read on: {error}") from error

    def _number(self, frame: Any, expected: int) -> int:
        """Return a decoded frame's number by its presentation time, or by counting where it has none.

        A frame at a time that the probe did not see has number -1.
        """
        if self._counted or frame.pts is None:
            return expected
        timestamps, time = self.info.timestamps, frame.pts - self.info.origin
        first, behind = np.searchsorted(timestamps, time, "left"), np.searchsorted(timestamps, time, "right")
        # Frames that share one presentation time follow one another.
        return int(max(first, min(expected, behind - 1))) if first < behind else -1


class _PyavPicture:
    def __init__(self, frame: Any, converter: _Converter) -> None:
        self._frame = frame
        self._converter = converter

    def rgb(self) -> np.ndarray:
        return self._converter.convert(self._frame, self._converter.height, self._converter.width)

    def scaled(self, height: int, width: int) -> np.ndarray:
        return self._converter.convert(self._frame, height, width)


class _Converter:
    """Filter graphs that turn, scale and convert frames, one for each kind of input and each output size."""

    def __init__(self, info: VideoInfo) -> None:
        self.height, self.width = info.height, info.width
        self._turns = info.upright
        self._graphs: dict[tuple[Any, ...], Graph] = {}

    def convert(self, frame: Any, height: int, width: int) -> np.ndarray:
        """Return (height, width, 3) uint8 RGB of a decoded frame, scaled by swscale's bicubic filter."""
        if int(frame.colorspace) in _MATRICES:
            frame.colorspace = _MATRICES[int(frame.colorspace)]
        source = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        key = (*source, height, width)
        if key not in self._graphs:
            self._graphs[key] = self._build(frame, height, width)
        graph = self._graphs[key]
        graph.push(frame)
        array: np.ndarray = graph.pull().to_ndarray()
        return array

    def _build(self, frame: Any, height: int, width: int) -> Graph:
        graph = Graph()
        # Time does not matter to these filters, and frames of broken files may lack it.
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        chain = [
            source,
            *(graph.add(name, arguments) for name, arguments in self._turns),
            graph.add("scale", f"{width}:{height}:flags=bicubic"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        for first, second in pairwise(chain):
            first.link_to(second)
        graph.configure()
        return graph
