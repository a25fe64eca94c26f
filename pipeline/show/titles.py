"""Lists of moments that players read: subtitles, and chapters."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mesm.pipeline.ground.answers import FoundMoment

CHAPTER_TICKS = 1_000
"""Ticks of a chapter's time in a second."""
_MARKUP = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")", "\\": "/"})
"""What players take for formatting in subtitles, and no escape can keep, and what is shown instead."""
_TIME = re.compile(r"(?<=\d):(?=\d)")
"""Colons of a time, which some readers take for the start of a cue, wherever it stands."""


def one_line(text: str) -> str:
    """Return a text without line ends, control characters and repeated spaces."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", " ", text).split())


def title_of(moment: FoundMoment) -> str:
    """Return what a moment is called where there is one line for it."""
    return one_line(moment.query) or f"from {moment.start_s:.2f} s"


def in_order(moments: Sequence[FoundMoment]) -> list[FoundMoment]:
    """Return the moments of one film by their start."""
    return sorted(moments, key=lambda moment: (moment.start_s, moment.end_s))


def srt(moments: Sequence[FoundMoment]) -> str:
    """Return SubRip subtitles of one film: the query during each moment."""
    cues = [
        f"{number}\n{_srt_time(moment.start_s)} --> {_srt_time(moment.end_s)}\n{_cue_text(moment)}\n"
        for number, moment in enumerate(in_order(moments), start=1)
    ]
    return "\n".join(cues)


def chapters(moments: Sequence[FoundMoment]) -> str:
    """Return chapters of one film as ffmetadata: `ffmpeg -i FILM -i CHAPTERS -map_chapters 1 -c copy NEW`."""
    lines = [";FFMETADATA1"]
    for moment in in_order(moments):
        start, end = (round(edge * CHAPTER_TICKS) for edge in (moment.start_s, moment.end_s))
        title = re.sub(r"[=;#\\]", r"\\\g<0>", title_of(moment))
        lines += ["[CHAPTER]", f"TIMEBASE=1/{CHAPTER_TICKS}", f"START={start}", f"END={end}", f"title={title}"]
    return "\n".join(lines) + "\n"


def _cue_text(moment: FoundMoment) -> str:
    return _TIME.sub("\u2236", title_of(moment).translate(_MARKUP))


def _srt_time(seconds: float) -> str:
    rest, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d},{thousandths:03d}"
