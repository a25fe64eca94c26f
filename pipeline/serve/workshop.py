"""What is made of films for the page: pictures, previews, cuts. ffmpeg makes all of it, in processes of its own."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.serve.films import ServedFilm
from mesm.pipeline.serve.limits import MIB, Limits
from mesm.pipeline.serve.made import Made
from mesm.pipeline.serve.scratch import Scratch
from mesm.pipeline.show.browsers import write_preview, write_still
from mesm.pipeline.show.cutting import cut
from mesm.pipeline.show.naming import moment_name
from mesm.pipeline.show.source import Source

STILLS_BYTES, FILMS_BYTES = 64 * MIB, 1024 * MIB
STILLS_WAITING, FILMS_WAITING = 500, 20
STILL_S, PREVIEW_S, CUT_S = 20.0, 60.0, 600.0
"""Seconds for which ffmpeg may run."""
MEASURED = 8


class Workshop:
    """Makes pictures, previews and cuts when they are asked for."""

    def __init__(self, scratch: Scratch, limits: Limits) -> None:
        self._limits = limits
        self._stills = Made(scratch.folder("stills"), STILLS_BYTES, STILLS_WAITING)
        self._films = Made(scratch.folder("made"), FILMS_BYTES, FILMS_WAITING)
        self._measured: OrderedDict[tuple[Path, int], Source] = OrderedDict()

    def still(self, film: ServedFilm, at: str) -> BinaryIO:
        """Return a JPEG of a film at a second; PipelineError when there is none."""
        second = min(_seconds(at), max(film.duration_s - 0.05, 0.0))
        name = f"{film.key}-{round(second * 100)}.jpg"
        return self._stills.open(name, partial(self._still, film, second))

    def preview(self, film: ServedFilm, start: str, end: str) -> BinaryIO:
        """Return a part of a film that browsers play, small."""
        begin, behind = self._part(film, start, end, self._limits.preview_s)
        name = f"{film.key}-{round(begin * 1000)}-{round(behind * 1000)}-preview.mp4"
        return self._films.open(name, lambda out: write_preview(self._source(film), begin, behind, out, PREVIEW_S))

    def cut(self, film: ServedFilm, start: str, end: str) -> tuple[BinaryIO, str]:
        """Return a moment as a film of its own, with exact borders, and its name."""
        begin, behind = self._part(film, start, end, self._limits.cut_s)
        name = f"{film.key}-{round(begin * 1000)}-{round(behind * 1000)}-cut.mp4"
        make = partial(self._cut, film, begin, behind)
        return self._films.open(name, make), f"{moment_name(Path(film.name), begin, behind)}.mp4"

    def forget(self, key: str) -> None:
        """Remove all that was made of a film."""
        self._stills.forget(key)
        self._films.forget(key)

    def _still(self, film: ServedFilm, second: float, out: Path) -> None:
        self._unchanged(film)
        write_still(film.path, second, out, STILL_S)

    def _cut(self, film: ServedFilm, begin: float, behind: float, out: Path) -> None:
        cut(self._source(film), begin, behind, out, reencode=True, timeout_s=CUT_S)

    def _part(self, film: ServedFilm, start: str, end: str, longest: float) -> tuple[float, float]:
        begin, behind = _seconds(start), min(_seconds(end), film.duration_s)
        if not begin < behind:
            raise PipelineError("the start has to lie before the end, and both in the film")
        if behind - begin > longest + 0.01:
            raise PipelineError(f"at most {longest:g} s can be had at a time")
        return begin, behind

    def _source(self, film: ServedFilm) -> Source:
        """Measure a film once; only the thread that makes films asks."""
        self._unchanged(film)
        place = (film.path, film.modified_ns)
        if place not in self._measured:
            self._measured[place] = Source.of(film.path)
            if len(self._measured) > MEASURED:
                self._measured.popitem(last=False)
        return self._measured[place]

    @staticmethod
    def _unchanged(film: ServedFilm) -> None:
        """Raise GoneError when the file is not the one that was looked at."""
        film.open().close()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0 <= value < 1e7):
        raise PipelineError("expected a time in seconds")
    return value
