"""Words of a film: subtitle files beside it, and subtitle tracks in it, as cues of some seconds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import pysubs2
from av.error import FFmpegError
from charset_normalizer import from_bytes

from mesm.extractors.decoding.containers import open_container
from mesm.extractors.errors import VideoError
from mesm.pipeline.index.catalogue import Cue
from mesm.pipeline.run.console import say

LARGEST_BYTES = 32 * 1024 * 1024
"""A subtitle file is no larger than this."""
JOINED_S = 12.0
"""Cues that follow one another are joined up to this length, so that a sentence over two cues is found."""
PAUSE_S = 1.5
"""Cues further apart than this stay apart."""
_TAGS = re.compile(r"<[^>\n]{0,200}>|\{\\[^}\n]{0,200}\}")
_BLANKS = re.compile(r"\s+")


def subtitle_state(files: Sequence[Path]) -> str:
    """Say which subtitle files there are, so that a later look sees a change."""
    states = []
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            continue
        states.append(f"{os.fsencode(file.name).hex()}:{status.st_size}:{status.st_mtime_ns}")
    return " ".join(states)


def read_cues(film: Path, files: Sequence[Path]) -> list[Cue]:
    """Read the cues of subtitle files, or, where there are none, of the film's own text tracks.

    A file that cannot be read is said and passed over.
    """
    cues: list[Cue] = []
    for file in files:
        try:
            cues += read_subtitle_file(file)
        except (OSError, ValueError) as error:
            say(f"warning: subtitles {file}: {error}")
    return cues if files else track_cues(film)


def read_subtitle_file(file: Path) -> list[Cue]:
    """Read an .srt, .vtt, .ass or .ssa file in any usual encoding; ValueError when it is none."""
    if file.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"is larger than {LARGEST_BYTES} bytes")
    text = _decoded(file.read_bytes(), file)
    try:
        found = pysubs2.SSAFile.from_string(text)
    except (pysubs2.exceptions.Pysubs2Error, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"expected subtitles ({type(error).__name__}: {error})") from error
    events = [event for event in found if not event.is_comment]
    return joined(((event.start / 1000, event.end / 1000, event.plaintext) for event in events), file.name)


def track_cues(film: Path) -> list[Cue]:
    """Read the first text track of a film; none when it has none that can be read as text."""
    try:
        with open_container(film) as container:
            for stream in container.streams.subtitles:
                source = f"track {stream.index}" + (f" ({stream.language})" if stream.language else "")
                cues = joined(_track_texts(container, stream), source)
                if cues:
                    return cues
    except (FFmpegError, VideoError) as error:
        say(f"warning: the subtitle track of {film} cannot be read: {error}")
    return []


def joined(texts: Iterable[tuple[float, float, str]], source: str) -> list[Cue]:
    """Join neighbouring cues (start s, end s, text) of a source; markup goes, and what has no text or no time."""
    cues: list[Cue] = []
    for start, end, raw in sorted(texts):
        text = _BLANKS.sub(" ", _TAGS.sub(" ", raw)).strip()
        if not text or not 0 <= start < end:
            continue
        last = cues[-1] if cues else None
        if last is not None and start - last.end_s <= PAUSE_S and end - last.start_s <= JOINED_S:
            same = text == last.text or last.text.endswith(f" {text}")
            cues[-1] = Cue(last.start_s, max(end, last.end_s), last.text if same else f"{last.text} {text}", source)
        else:
            cues.append(Cue(start, end, text, source))
    return cues


def _track_texts(container: av.container.InputContainer, stream: av.SubtitleStream) -> list[tuple[float, float, str]]:
    begin = (container.start_time or 0) / av.time_base
    texts = []
    for packet in container.demux(stream):
        if packet.pts is None or not packet.duration:
            continue
        start = float(packet.pts * packet.time_base) - begin
        for part in packet.decode():
            text = _track_text(part)
            if text:
                texts.append((start, start + float(packet.duration * packet.time_base), text))
    return texts


def _track_text(part: object) -> str:
    """Return the text of a decoded subtitle: the last field of its ASS line, or its plain text."""
    line = getattr(part, "ass", None) or getattr(part, "text", None) or b""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else str(line)
    return text.split(",", 8)[-1].replace("\\N", "\n") if getattr(part, "ass", None) else text


def _decoded(content: bytes, file: Path) -> str:
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(encoding)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        best = from_bytes(content).best()
        if best is None:
            raise ValueError("is text in no encoding that is known") from None
        say(f"warning: subtitles {file} are no UTF-8; read as {best.encoding}")
        return str(best)
