"""Files that list moments or hold pictures of them, one a film where the format knows one film only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mesm.extractors.errors import VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.run.text_files import publish_text
from mesm.pipeline.show.edit_lists import edl
from mesm.pipeline.show.naming import distinct, moment_name, plain_stem
from mesm.pipeline.show.source import Source
from mesm.pipeline.show.sources import Sources, once_each
from mesm.pipeline.show.stills import write_stills
from mesm.pipeline.show.titles import chapters, srt

LISTS: Mapping[str, Callable[[Sequence[FoundMoment], Source], str]] = {
    "srt": lambda moments, source: srt(moments),
    "chapters": lambda moments, source: chapters(moments),
    "edl": lambda moments, source: edl(moments, source, source.path.name),
}
"""Formats of one film."""


def write_lists(kind: str, moments: Sequence[FoundMoment], out: Path, sources: Sources) -> tuple[list[Path], list[str]]:
    """Write moments in a format of LISTS, and return the files and the problems of films that cannot be read.

    Of one film, the file is `out`; of several, each has the film's name in its own: OUT-kitchen.srt.
    """
    by_film: dict[Path, list[FoundMoment]] = {}
    for moment in moments:
        by_film.setdefault(moment.file, []).append(moment)
    written: list[Path] = []
    problems = []
    for film, found in by_film.items():
        inside, more = _inside(found, sources)
        problems += more
        if not inside:
            continue
        text = LISTS[kind]([moment for moment, _ in inside], inside[0][1])
        names = [path.name for path in written]
        several = distinct(f"{out.stem[:60]}-{plain_stem(film.name)}", out.suffix, names)
        place = out if len(by_film) == 1 else out.with_name(several)
        publish_text(place, text)
        written.append(place)
    return written, problems


def write_timeline(moments: Sequence[FoundMoment], out: Path, sources: Sources) -> list[str]:
    """Write an OpenTimelineIO time line of moments of any films; return the problems of those that cannot be read."""
    from mesm.pipeline.show.otio_timeline import timeline_json

    clips, problems = _inside(moments, sources)
    publish_text(out, timeline_json(clips, out.stem))
    return problems


def _inside(moments: Sequence[FoundMoment], sources: Sources) -> tuple[list[tuple[FoundMoment, Source]], list[str]]:
    """Return the moments that lie in their films, which can be read, with them; and what is wrong with the others."""
    found, problems = [], []
    for moment in moments:
        try:
            source = sources.of(moment)
            source.frames(moment.start_s, moment.end_s)
            found.append((moment, source))
        except (PipelineError, VideoError) as error:
            problems.append(str(error))
    return found, problems


def write_all_stills(
    moments: Sequence[FoundMoment], folder: Path, sources: Sources, force: bool
) -> tuple[int, list[str]]:
    """Write the best stills of each moment into a folder; return how many, and the problems."""
    count, problems = 0, []
    taken: list[str] = []
    for moment in once_each(moments):
        try:
            source = sources.of(moment)
            stem = distinct(moment_name(moment.file, moment.start_s, moment.end_s), "", taken)
            taken.append(stem)
            count += len(write_stills(source, moment.start_s, moment.end_s, folder, stem, force))
        except (PipelineError, VideoError) as error:
            problems.append(str(error))
    return count, problems
