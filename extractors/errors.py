"""Typed errors of the extractors: each says what was found, what was expected and what to do next."""

from __future__ import annotations


class ExtractorError(Exception):
    """Base of all errors that a user of the extractors can meet."""


class WeightsError(ExtractorError):
    """Weights are missing, unreadable, of another layout, or fail their checksum."""


class EncoderError(ExtractorError):
    """An encoder cannot be built as asked: unknown name, impossible option, wrong input shape."""


class VideoError(ExtractorError):
    """A video cannot be read. `reason` is the short word that lists of failed videos show."""

    reason = "video"


class ProbeError(VideoError):
    """The file is not a readable video: missing, empty, no video stream, a playlist or a network address."""

    reason = "probe"


class DecodeError(VideoError):
    """Decoding stopped before the frames that were asked for."""

    reason = "decode"


class DecodeTimeoutError(VideoError):
    """The decoder made no progress within its timeout."""

    reason = "timeout"


class DecodeMemoryError(VideoError):
    """The decoder ran out of memory."""

    reason = "memory"


class VideoChangedError(VideoError):
    """The file changed while it was read."""

    reason = "changed during reading"
