"""Moments as an OpenTimelineIO time line, which editing programs and their converters read.

The only module that imports opentimelineio, an extra: `pip install "mesm-pipeline[otio]"`.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from typing import Any

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.show.edit_lists import frames_of
from mesm.pipeline.show.source import Source
from mesm.pipeline.show.timecode import Timebase
from mesm.pipeline.show.titles import one_line, title_of


def timeline_json(clips: Sequence[tuple[FoundMoment, Source]], title: str) -> str:
    """Return a time line with one clip a moment, each at its film's rate; PipelineError without opentimelineio."""
    try:
        import opentimelineio as otio
    except ModuleNotFoundError as error:
        raise PipelineError('--otio needs opentimelineio: pip install "mesm-pipeline[otio]"') from error
    timeline = otio.schema.Timeline(_plain(title))
    track = otio.schema.Track("moments", kind=otio.schema.TrackKind.Video)
    timeline.tracks.append(track)
    for moment, source in clips:
        track.append(_clip(otio, moment, source))
    return str(otio.adapters.write_to_string(timeline, "otio_json"))


def _clip(otio: Any, moment: FoundMoment, source: Source) -> Any:
    timebase = Timebase.of(source.info.fps)
    rate, begin = float(timebase.rate), timebase.frame(source.timecode) or 0
    first, behind = frames_of(moment, timebase)

    def span(start: int, frames: int) -> Any:
        return otio.opentime.TimeRange(
            otio.opentime.RationalTime(start, rate), otio.opentime.RationalTime(frames, rate)
        )

    address = "file://" + urllib.parse.quote(bytes(moment.file.absolute()))
    media = otio.schema.ExternalReference(address, span(begin, timebase.frame_at(source.info.duration_s)))
    media.name = _plain(moment.file.name)
    clip = otio.schema.Clip(_plain(title_of(moment)), media, span(begin + first, behind - first))
    clip.metadata["mesm"] = {
        "score": moment.score,
        "score_kind": moment.score_kind,
        "query": _plain(moment.query),
        "model": _plain(moment.model),
        "start_s": moment.start_s,
        "end_s": moment.end_s,
    }
    return clip


def _plain(text: str) -> str:
    """Return a text that opentimelineio can hold: valid Unicode, of one line."""
    return one_line(text).encode("utf-8", "replace").decode("utf-8")
