"""Words of films without subtitles: heard once by a network, kept as cues, a window at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesm.datasets.plain_text import parse_json
from mesm.extractors.errors import VideoError
from mesm.extractors.speech import Said, Transcriber
from mesm.pipeline.index.build import only_writer
from mesm.pipeline.index.catalogue import TRANSCRIBED, Cue, Film, IndexedFile
from mesm.pipeline.index.store import IndexStore
from mesm.pipeline.index.subtitles import joined
from mesm.pipeline.run.console import ProgressBar


@dataclass
class TranscriptReport:
    """What a run heard."""

    films: int = 0
    """Films that were heard to their end now."""
    cues: int = 0
    """Cues that came of them."""
    failed: list[tuple[Path, str]] = field(default_factory=list)
    """Files whose sound could not be decoded, with the reason."""


def transcribe_films(index: IndexStore, places: Sequence[Path], transcriber: Transcriber) -> TranscriptReport:
    """Hear the films of files and folders that have no subtitles, and were not heard by this network.

    Every window of 30 s is kept as it is heard, in one transaction: a run that was stopped goes on there. Words that
    another network heard are replaced. Waits while another run adds to the index.
    """
    report = TranscriptReport()
    with only_writer(index.path):
        waiting = [(film, file) for film, file in _films_in(index, places) if _lacks(index, film, transcriber)]
        minutes = sum(film.duration_s for film, _ in waiting) / 60
        with ProgressBar("minutes of sound", round(minutes)) as bar:
            before_s = 0.0
            for film, file in waiting:
                for heard_s in _hear(index, film, file, transcriber, report):
                    bar.update(int(before_s + heard_s) // 60)
                before_s += film.duration_s
    return report


def _hear(
    index: IndexStore, film: Film, file: IndexedFile, transcriber: Transcriber, report: TranscriptReport
) -> Iterator[float]:
    """Hear a film to its end, from where an earlier run came to; yield the seconds that are heard."""
    known = _known(index, film.film_id)
    from_s = float(known["heard_s"]) if known.get("model") == transcriber.name else 0.0
    if not from_s:
        index.catalogue.add_transcript(film.film_id, [], _state(transcriber, 0.0, False), anew=True)
    try:
        for said, until_s in transcriber.transcribe(file.path, from_s):
            cues = _cues(said, film, transcriber)
            index.catalogue.add_transcript(film.film_id, cues, _state(transcriber, until_s, False))
            report.cues += len(cues)
            from_s = until_s
            yield min(until_s, film.duration_s)
    except VideoError as error:
        report.failed.append((file.path, str(error)))
        return
    index.catalogue.add_transcript(film.film_id, [], _state(transcriber, from_s, True))
    report.films += 1


def _cues(said: Sequence[Said], film: Film, transcriber: Transcriber) -> list[Cue]:
    return joined(
        ((one.start_s, min(one.end_s, film.duration_s), one.text) for one in said), f"{TRANSCRIBED}{transcriber.name}"
    )


def _films_in(index: IndexStore, places: Sequence[Path]) -> list[tuple[Film, IndexedFile]]:
    """Return the films that lie in files and folders, each once, with a file that is there."""
    roots = {Path(os.path.abspath(place)) for place in places}
    films = index.catalogue.films()
    found: dict[str, tuple[Film, IndexedFile]] = {}
    for path, file in index.catalogue.files().items():
        within = path in roots or not roots.isdisjoint(path.parents)
        if within and file.film_id in films and path.exists():
            found.setdefault(file.film_id, (films[file.film_id], file))
    return list(found.values())


def _lacks(index: IndexStore, film: Film, transcriber: Transcriber) -> bool:
    if any(not cue.source.startswith(TRANSCRIBED) for cue in index.catalogue.cues(film.film_id)):
        return False
    known = _known(index, film.film_id)
    return known.get("model") != transcriber.name or not known["whole"]


def _known(index: IndexStore, film: str) -> dict[str, Any]:
    """What is noted of a film's transcript; nothing where there is none, or the note is damaged: it is heard again."""
    stored = index.catalogue.transcript(film)
    try:
        known = parse_json(stored.decode()) if stored is not None else {}
        return {"model": known["model"], "heard_s": float(known["heard_s"]), "whole": bool(known["whole"])}
    except (ValueError, LookupError, TypeError):
        return {}


def _state(transcriber: Transcriber, heard_s: float, whole: bool) -> bytes:
    return json.dumps({"model": transcriber.name, "heard_s": heard_s, "whole": whole}).encode()
