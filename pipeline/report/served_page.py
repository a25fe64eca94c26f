"""What the page of `serve` shows of films and answers: pieces of HTML, its style and its script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from markupsafe import Markup

from mesm.pipeline.report.answer_page import LANES, SCORES, ShownAnswer, ShownFilm, ShownMoment
from mesm.pipeline.report.grounding_page import TimeLine, data_uri
from mesm.pipeline.report.page import render

LONGEST_CURVE = 1500
"""Points of a curve that a screen can show."""


@dataclass(frozen=True, eq=False)
class PlayedFilm:
    """A film as the player knows it."""

    key: str
    """By which the page asks for it."""
    name: str
    duration_s: float
    plays: bool
    """Whether browsers play the file itself; else they get previews."""

    @property
    def link(self) -> str:
        """Address of the file."""
        return f"films/{self.key}"


@dataclass(frozen=True, eq=False)
class ShownHit:
    """One moment of a search, with its film."""

    film: PlayedFilm | None
    """None when it cannot be played: it is gone, or was changed."""
    name: str
    moment: ShownMoment


def render_film(film: PlayedFilm, thumbnails: Sequence[tuple[float, str]]) -> str:
    """Return a film that nothing was asked about yet."""
    return _render("served_film.html.j2", film=film, shown=_shown(film, (), thumbnails), line=_line(film))


def render_gallery(films: Sequence[tuple[PlayedFilm, str]]) -> str:
    """Return films with the address of a picture each, to be looked at before anything is asked."""
    return _render("served_gallery.html.j2", films=films)


def render_answer(
    film: PlayedFilm, answer: ShownAnswer, thumbnails: Sequence[tuple[float, str]], notices: Sequence[str]
) -> str:
    """Return the answers to one question about one film."""
    shown = _shown(film, (answer,), thumbnails)
    return _render("served_answer.html.j2", film=film, shown=shown, answer=answer, line=_line(film), notices=notices)


def render_hits(query: str, hits: Sequence[ShownHit], searched: int, model: str, notices: Sequence[str]) -> str:
    """Return the answers to one question about all films, best first."""
    return _render("served_hits.html.j2", query=query, hits=hits, searched=searched, model=model, notices=notices)


def render_notice(text: str) -> str:
    """Return a line that says why there is nothing else."""
    return _render("served_notice.html.j2", text=text)


def render_head(films: int, hours: float, model: str) -> str:
    """Return the head of the page."""
    return _render("served_head.html.j2", films=films, hours=hours, model=model)


def render_player(hint: str) -> str:
    """Return the player, empty, with what to do first."""
    return _render("served_player.html.j2", hint=hint)


def render_uploader(limits: Mapping[str, str], suffixes: str) -> str:
    """Return the button by which a film is uploaded."""
    return _render("served_uploader.html.j2", limits=limits, suffixes=suffixes)


def render_token_page(wrong: bool) -> str:
    """Return the page that asks for the token."""
    return _render("served_token.html.j2", wrong=wrong)


@cache
def style() -> str:
    """Return the style sheet."""
    return str(render("served.css"))


@cache
def script() -> str:
    """Return the script."""
    return (files("mesm.pipeline.report") / "templates" / "served.js").read_text("utf-8")


def thinned(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return a curve with at most as many points as a screen can show: of each part the highest value."""
    step = -(-len(values) // LONGEST_CURVE)
    if step <= 1:
        return list(times), list(values)
    parts = (range(first, min(first + step, len(values))) for first in range(0, len(values), step))
    tops = [max(part, key=values.__getitem__) for part in parts]
    return [times[top] for top in tops], [values[top] for top in tops]


def _shown(film: PlayedFilm, answers: Sequence[ShownAnswer], thumbnails: Sequence[tuple[float, str]]) -> ShownFilm:
    return ShownFilm(film.name, answers, film.link, film.duration_s, thumbnails)


def _line(film: PlayedFilm) -> TimeLine:
    return TimeLine(max(film.duration_s, 1e-3))


def _render(template: str, **values: object) -> str:
    return str(Markup(render(template, lanes=LANES, scores=SCORES, data_uri=data_uri, **values)).strip())
