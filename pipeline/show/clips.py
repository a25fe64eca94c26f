"""Moments of many films, each as a file of its own in one folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mesm.datasets.shards.publishing import remove_stale_temporaries, write_errors
from mesm.extractors.errors import VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.show.cutting import Cut, cut, suffix_of
from mesm.pipeline.show.naming import distinct, moment_name
from mesm.pipeline.show.source import Source
from mesm.pipeline.show.sources import Sources, once_each


@dataclass(frozen=True)
class Clip:
    """One moment and its file, or why there is none."""

    moment: FoundMoment
    cut: Cut | None
    problem: str = ""


def padded(source: Source, moment: FoundMoment, pad_s: float) -> tuple[float, float]:
    """Return start and end of a moment with some seconds around it, inside the film."""
    return max(moment.start_s - pad_s, 0.0), min(moment.end_s + pad_s, max(source.info.duration_s, moment.end_s))


def cut_moments(
    moments: Iterable[FoundMoment],
    folder: Path,
    sources: Sources,
    reencode: bool = False,
    pad_s: float = 0.0,
    force: bool = False,
) -> Iterator[Clip]:
    """Cut each moment into a file of `folder`, one after the other; a moment that is asked for twice is cut once.

    What cannot be cut is yielded with its problem, and the others go on. FeatureError when the folder cannot be made.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(folder)
    taken: set[str] = set()
    for moment in once_each(moments):
        try:
            source = sources.of(moment)
            start, end = padded(source, moment, pad_s)
            name = distinct(moment_name(moment.file, start, end), suffix_of(source, reencode), taken)
            taken.add(name)
            yield Clip(moment, cut(source, start, end, folder / name, reencode, force))
        except (PipelineError, VideoError) as error:
            yield Clip(moment, None, str(error))
