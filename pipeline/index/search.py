"""Asking an index: a sentence or a picture in, moments of files out."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mesm.datasets.plain_text import parse_json
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.data.prompts import GENERIC
from mesm.pipeline.ground.answers import HEARD_WORDS, NO_MATCH, UNTRAINED, Evidence, FoundMoment
from mesm.pipeline.ground.questions import Question
from mesm.pipeline.index.catalogue import Film, IndexedFile
from mesm.pipeline.index.matrix import RowMatrix
from mesm.pipeline.index.moments import Span, find_moments, folded, smoothed_in_films
from mesm.pipeline.index.spoken import SpokenSpan, find_spoken
from mesm.pipeline.index.store import IndexStore

if TYPE_CHECKING:
    from mesm.pipeline.ground.zero_shot import ZeroShot

RANK_OFFSET = 60
"""Reciprocal rank fusion adds 1 / (60 + rank) of each kind of evidence (Cormack et al. 2009)."""
CONFIDENT = 95.0
"""Percentile of what generic sentences reach in the same index, above which an answer is more than chance."""
NOTED_FACT = "generic responses"


@dataclass(frozen=True)
class Filter:
    """Which files may answer."""

    path: str = ""
    """A pattern for the whole path or its end, as a shell's."""
    since_s: float | None = None
    """Files changed since then: seconds since 1970."""
    shortest_s: float = 0.0
    longest_s: float = float("inf")

    def admits(self, file: IndexedFile, film: Film) -> bool:
        """Tell whether a file may answer."""
        if self.path and not any(fnmatch.fnmatchcase(str(file.path), p) for p in (self.path, f"*/{self.path}")):
            return False
        if self.since_s is not None and file.modified_ns / 1e9 < self.since_s:
            return False
        return self.shortest_s <= film.duration_s <= self.longest_s


@dataclass(frozen=True)
class SearchResult:
    """The answers to one question."""

    query: str
    moments: list[FoundMoment]
    """Best first."""
    confident: bool
    """Whether the best picture fits better than those that generic sentences find; else the answers are guesses."""
    words_cut: bool
    """The question was longer than the model reads."""
    searched: int
    """Films that were searched."""
    alike: dict[int, int] = field(default_factory=dict)
    """By place among the moments: how many that show the same were left out."""
    thumbnails: list[bytes | None] = field(default_factory=list)
    """A JPEG from each moment's middle, where there is one."""

    def _repr_html_(self) -> str:
        """Show the moments as a table with pictures, for notebooks."""
        from mesm.pipeline.report.moments import MomentRow, moments_table

        rows = [
            MomentRow(m.start_s, m.end_s, m.score, str(m.file), m.notes, picture)
            for m, picture in zip(self.moments, self.thumbnails, strict=True)
        ]
        return moments_table(self.query, rows)


def search(
    index: IndexStore,
    grounder: ZeroShot,
    question: Question,
    count: int = 10,
    allowed: Filter | None = None,
    dedupe: bool = True,
) -> SearchResult:
    """Return the best moments of an index; PipelineError for an empty question or a model of another index."""
    index.refuse_other_model(grounder.model, grounder.text.spec)
    wanted, cut = grounder.direction(question, lambda: index.matrix.mean())
    matrix, files = index.matrix, files_of(index, allowed or Filter())
    searched = np.array([film in files for film in matrix.films], bool)
    scores = matrix.scores(wanted)
    spans = find_moments(matrix, wanted, scores, searched, grounder.reading, index.facts.row_s, count)
    kept = folded(matrix, spans, count) if dedupe else [(span, 0) for span in spans[:count]]
    spoken = [] if question.picture else find_spoken(index.catalogue, question.text, 4 * count)
    hits = _merge(index, matrix, kept, [one for one in spoken if one.film in files])[:count]
    peak = _peak(matrix, scores, searched, index.facts.row_s) if searched.any() else -np.inf
    confident = peak > generic_peak(index, grounder)
    moments = [_found(index, grounder, question, hit, files, cut, confident) for hit in hits]
    alike = {place: hit.alike for place, hit in enumerate(hits) if hit.alike}
    pictures = [index.catalogue.thumbnail(hit.film, (hit.start_s + hit.end_s) / 2) for hit in hits]
    return SearchResult(question.name, moments, confident, cut, int(searched.sum()), alike, pictures)


def generic_peak(index: IndexStore, grounder: ZeroShot) -> float:
    """Return what only 5 of 100 generic sentences' best pictures surpass in this index, kept for the same content."""
    matrix = index.matrix
    if not len(matrix):
        return 0.0
    content = f"{len(matrix)} rows of {len(matrix.films)} films, {index.folder.fingerprint}"
    stored = index.catalogue.fact(NOTED_FACT)
    if stored is not None and (noted := _noted(stored)) is not None and noted[0] == content:
        return noted[1]
    everything = np.ones(len(matrix.films), bool)
    peaks = [
        _peak(matrix, matrix.scores(direction), everything, index.facts.row_s)
        for direction in grounder.generic_directions()
    ]
    return float(np.percentile(peaks, CONFIDENT))


def _noted(stored: bytes) -> tuple[str, float] | None:
    """Read what `note_generic_peak` kept; None when it is damaged, as it can be found again."""
    try:
        content = parse_json(stored.decode())
        return str(content["content"]), float(content["peak"])
    except (ValueError, LookupError, TypeError):
        return None


def note_generic_peak(index: IndexStore, grounder: ZeroShot) -> None:
    """Keep what generic sentences reach, so that no search has to find it again."""
    matrix, peak = index.matrix, generic_peak(index, grounder)
    content = f"{len(matrix)} rows of {len(matrix.films)} films, {index.folder.fingerprint}"
    index.catalogue.set_fact(NOTED_FACT, json.dumps({"content": content, "peak": peak, "of": len(GENERIC)}).encode())


@dataclass(frozen=True)
class _Hit:
    film: str
    start_s: float
    end_s: float
    score: float
    kind: str
    evidence: tuple[Evidence, ...]
    alike: int = 0


def _merge(
    index: IndexStore, matrix: RowMatrix, pictures: list[tuple[Span, int]], spoken: Sequence[SpokenSpan]
) -> list[_Hit]:
    """Put what is seen and what is said together: by contrast alone, or by reciprocal ranks where both have answers."""
    durations = {film.film_id: film.duration_s for film in index.catalogue.films().values()}
    seen = []
    for span, alike in pictures:
        film = matrix.films[span.film]
        rows = matrix.starts[span.film + 1] - matrix.starts[span.film]
        row_s = durations[film] / rows
        evidence = (Evidence("picture", span.score),)
        seen.append(
            _Hit(film, float(span.start * row_s), float(span.end * row_s), span.score, "contrast", evidence, alike)
        )
    if not spoken:
        return seen
    hits: list[_Hit] = []
    for rank, hit in enumerate(seen):
        hits.append(_Hit(hit.film, hit.start_s, hit.end_s, 1 / (RANK_OFFSET + rank), "fused", hit.evidence, hit.alike))
    for rank, said in enumerate(spoken):
        share, evidence = (
            1 / (RANK_OFFSET + rank),
            (Evidence(HEARD_WORDS if said.heard else "words", said.score, said.text),),
        )
        same = next((n for n, hit in enumerate(hits) if _overlap(hit, said)), None)
        if same is None:
            end_s = min(said.end_s, durations[said.film])
            if said.start_s < end_s:
                hits.append(_Hit(said.film, said.start_s, end_s, share, "fused", evidence))
        else:
            hit = hits[same]
            hits[same] = _Hit(
                hit.film, hit.start_s, hit.end_s, hit.score + share, "fused", hit.evidence + evidence, hit.alike
            )
    return sorted(hits, key=lambda hit: -hit.score)


def _overlap(hit: _Hit, said: SpokenSpan) -> bool:
    return hit.film == said.film and min(hit.end_s, said.end_s) > max(hit.start_s, said.start_s)


def files_of(index: IndexStore, allowed: Filter) -> Mapping[str, list[IndexedFile]]:
    """Return the films that may answer, with the files of each that may."""
    films = index.catalogue.films()
    found: dict[str, list[IndexedFile]] = {}
    for file in index.catalogue.files().values():
        film = films.get(file.film_id)
        if film is not None and allowed.admits(file, film):
            found.setdefault(file.film_id, []).append(file)
    return found


def _found(
    index: IndexStore,
    grounder: ZeroShot,
    question: Question,
    hit: _Hit,
    files: Mapping[str, list[IndexedFile]],
    cut: bool,
    confident: bool,
) -> FoundMoment:
    file, state = present_file(files[hit.film])
    said = ((state, True), (UNTRAINED, grounder.untrained), (NO_MATCH, not confident), ("query cut", cut))
    notes = [note for note, holds in said if note and holds]
    return FoundMoment(
        file.path,
        hit.start_s,
        hit.end_s,
        hit.score,
        question.name,
        hit.kind,
        index.facts.model,
        hit.evidence,
        tuple(notes),
        grounder.method,
    )


def present_file(files: Sequence[IndexedFile]) -> tuple[IndexedFile, str]:
    """Return the file of a film that is there, if one is, and how it is: empty, `changed` or `missing`."""
    states = [(file, _state(file)) for file in files]
    return min(states, key=lambda pair: ("", "changed", "missing").index(pair[1]))


def _state(file: IndexedFile) -> str:
    """Say how a file is now: as it was indexed, `changed` or `missing`."""
    try:
        status = os.stat(file.path)
    except OSError:
        return "missing"
    return "" if (status.st_size, status.st_mtime_ns) == (file.size, file.modified_ns) else "changed"


def _peak(matrix: RowMatrix, scores: np.ndarray, searched: np.ndarray, row_s: float) -> float:
    """Return by how much the highest smoothed score exceeds the mean, among films that are searched."""
    rows = np.repeat(searched, np.diff(matrix.starts))
    values = scores[rows]
    smoothed = smoothed_in_films(scores, matrix.starts, round(2 / row_s))[rows]
    return float(smoothed.max() - values.mean(dtype=np.float64))


def parse_seconds(text: str, option: str) -> float:
    """Read `90`, `1:30` or `1:02:03` as seconds; PipelineError names the option."""
    parts = text.strip().split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) > 3 or not all(0 <= number < 1e7 for number in numbers):
        raise PipelineError(f"{option} {text}: expected seconds, m:ss or h:mm:ss")
    return sum(number * 60**power for power, number in enumerate(reversed(numbers)))
