"""Moments on one page that plays them."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mesm.extractors.errors import VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.report.answer_page import ShownAnswer, ShownFilm, ShownMoment, render_answer_page
from mesm.pipeline.report.thumbnails import THUMBNAILS
from mesm.pipeline.run.text_files import publish_text
from mesm.pipeline.show.browsers import in_every_browser
from mesm.pipeline.show.source import Source
from mesm.pipeline.show.sources import Sources

Curves = Mapping[tuple[Path, str], tuple[Sequence[float], Sequence[float]]]
"""(film, query) -> times in seconds, ascending, and how relevant the film is there, in any unit."""

STRIPS = 20
"""Films of a page that have a strip of frames; further ones have their moments' pictures alone."""
PICTURE_HEIGHT = 180


def write_page(
    out: Path, moments: Sequence[FoundMoment], sources: Sources, curves: Curves | None = None, title: str = "Moments"
) -> None:
    """Write a page of moments, best first for each film and query; films that cannot be read are named on it.

    FeatureError when the page cannot be written.
    """
    by_film: dict[Path, list[FoundMoment]] = {}
    for moment in moments:
        by_film.setdefault(moment.file, []).append(moment)
    films = [
        _film(out, film, found, sources, curves or {}, strip=number < STRIPS)
        for number, (film, found) in enumerate(by_film.items())
    ]
    publish_text(out, render_answer_page(title, films).encode("utf-8", "replace").decode("utf-8"))


def relative_link(film: Path, page: Path) -> str:
    """Return a film's address as seen from a page's folder: nothing in its name is taken for a part of an address."""
    relative = os.path.relpath(os.path.abspath(film), os.path.dirname(os.path.abspath(page)))
    # The dot keeps a colon in the name from looking like a scheme.
    return "./" + urllib.parse.quote(os.fsencode(relative))


def browser_notice(source: Source) -> str:
    """Return what is to be known when not every browser plays a film; empty when all do."""
    container, codec = source.info.container, source.info.codec
    if in_every_browser(container, codec, source.path):
        return ""
    return (
        f"{codec} in {source.path.suffix.lstrip('.') or container}: not every browser plays this film; "
        "its moments can be cut with --reencode"
    )


def _film(
    out: Path, film: Path, moments: Sequence[FoundMoment], sources: Sources, curves: Curves, strip: bool
) -> ShownFilm:
    answers = [
        ShownAnswer(
            query,
            [_shown(moment, None) for moment in found],
            found[0].score_kind,
            found[0].model,
            curves.get((film, query)),
        )
        for query, found in _by_query(moments)
    ]
    try:
        source = sources.of(moments[0])
        strips, pictures = _pictures(source, moments, strip)
    except (PipelineError, VideoError) as error:
        return ShownFilm(film.name, answers, notice=f"This film cannot be shown: {error}")
    with_pictures = [
        replace(
            answer,
            moments=[replace(m, picture=pictures.get(_middle(source, m.start_s, m.end_s))) for m in answer.moments],
        )
        for answer in answers
    ]
    return ShownFilm(
        film.name, with_pictures, relative_link(film, out), source.info.duration_s, strips, browser_notice(source)
    )


def _by_query(moments: Iterable[FoundMoment]) -> list[tuple[str, list[FoundMoment]]]:
    found: dict[str, list[FoundMoment]] = {}
    for moment in moments:
        found.setdefault(moment.query, []).append(moment)
    return list(found.items())


def _shown(moment: FoundMoment, picture: np.ndarray | None) -> ShownMoment:
    words = " ".join(one.text for one in moment.evidence if one.text)
    return ShownMoment(moment.start_s, moment.end_s, moment.score, picture, words, moment.notes)


def _middle(source: Source, start_s: float, end_s: float) -> int:
    return min(source.edge((start_s + end_s) / 2), source.info.frame_count - 1)


def _pictures(
    source: Source, moments: Sequence[FoundMoment], strip: bool
) -> tuple[list[tuple[float, np.ndarray]], dict[int, np.ndarray]]:
    """Return the strip along the film, and the middles of moments by frame number, all small."""
    length = source.info.duration_s
    spread = [source.edge((n + 0.5) / THUMBNAILS * length) for n in range(THUMBNAILS)] if strip else []
    spread = sorted({min(number, source.info.frame_count - 1) for number in spread})
    middles = {_middle(source, moment.start_s, moment.end_s) for moment in moments}
    with source.open() as stream:
        height = min(PICTURE_HEIGHT, source.info.height)
        width = max(1, round(source.info.width * height / source.info.height))
        found = dict(stream.pictures_of([*spread, *middles], (height, width)))
    return [(float(source.seconds[n]), found[n]) for n in spread if n in found], {
        n: found[n] for n in middles if n in found
    }
