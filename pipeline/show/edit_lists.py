"""Moments of one film as a CMX3600 edit decision list, for editing programs."""

from __future__ import annotations

from collections.abc import Sequence

from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.show.source import Source
from mesm.pipeline.show.timecode import Timebase
from mesm.pipeline.show.titles import one_line, title_of

REEL = "AX"
"""What editing programs call a source that is no tape."""


def frames_of(moment: FoundMoment, timebase: Timebase) -> tuple[int, int]:
    """Return the first frame of a moment and the one after its last, counted at the film's rate."""
    first = timebase.frame_at(moment.start_s)
    return first, max(timebase.frame_at(moment.end_s), first + 1)


def edl(moments: Sequence[FoundMoment], source: Source, title: str) -> str:
    """Return the moments in the order given, one cut after the other, in the film's timecode."""
    timebase = Timebase.of(source.info.fps)
    begin, place = timebase.frame(source.timecode) or 0, 0
    lines = [f"TITLE: {one_line(title)}", f"FCM: {'DROP FRAME' if timebase.drop else 'NON-DROP FRAME'}", ""]
    for number, moment in enumerate(moments, start=1):
        first, behind = frames_of(moment, timebase)
        edges = (begin + first, begin + behind, place, place + behind - first)
        lines.append(f"{number:03d}  {REEL:8} V     C        {' '.join(map(timebase.text, edges))}")
        lines.append(f"* FROM CLIP NAME: {one_line(moment.file.name)}")
        lines += [f"* COMMENT: {title_of(moment)}", ""]
        place += behind - first
    return "\n".join(lines)
