"""The page that plays answers: each film's player, its time line, and its moments, which jump to their second.

One file that loads nothing but the films, which it links relatively. It has one script, which its content security
policy names by its hash, and nothing else may run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from mesm.pipeline.report.grounding_page import TimeLine, data_uri
from mesm.pipeline.report.page import render

LANES = 6
"""Moments of a query that have a lane of their own below the frames; the others share one."""
SCORES: Mapping[str, str] = {
    "probability": "the network's probability that this is the moment",
    "contrast": "how far the moment stands out; it ranks the moments of one search and is no probability",
    "fused": "ranks by several kinds of evidence, joined; no probability",
}
"""What the kinds of score mean."""


@dataclass(frozen=True, eq=False)
class ShownMoment:
    """One moment, ready to be shown."""

    start_s: float
    end_s: float
    score: float
    picture: np.ndarray | str | None = None
    """(height, width, 3) uint8 from its middle, or the address of a picture."""
    words: str = ""
    """What is said in it, where the answer rests on that."""
    notes: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class ShownAnswer:
    """One query about one film."""

    query: str
    moments: Sequence[ShownMoment]
    """Best first."""
    score_kind: str = ""
    model: str = ""
    curve: tuple[Sequence[float], Sequence[float]] | None = None
    """Times in seconds, ascending, and how relevant the film is there, in any unit."""


@dataclass(frozen=True, eq=False)
class ShownFilm:
    """One film with the answers about it."""

    name: str
    answers: Sequence[ShownAnswer]
    link: str = ""
    """Address relative to the page, as HTML has it; empty when the film cannot be read."""
    duration_s: float = 0.0
    thumbnails: Sequence[tuple[float, np.ndarray | str]] = ()
    """(time s, picture (height, width, 3) uint8 RGB or its address), ascending."""
    notice: str = ""
    """What is wrong with the film, or to be known before it is played."""


def render_answer_page(title: str, shown: Sequence[ShownFilm]) -> str:
    """Return the page as HTML; all text of films and answers is escaped."""
    moments = sum(len(answer.moments) for film in shown for answer in film.answers)
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = render(
        "answer_page.html.j2",
        title=title,
        subtitle=f"{_count(moments, 'moment')} in {_count(len(shown), 'film')}",
        films=[(film, TimeLine(max(film.duration_s, 1e-3))) for film in shown],
        lanes=LANES,
        scores=SCORES,
        data_uri=data_uri,
        script=script,
        script_hash=f"sha256-{digest}",
    )
    return str(page)


@cache
def _script() -> str:
    return (files("mesm.pipeline.report") / "templates" / "answer_page.js").read_text("utf-8")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
