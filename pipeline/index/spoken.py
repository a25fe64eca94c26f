"""Finding what is spoken: cues that hold most of what a question says, by SQLite's full text index."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mesm.pipeline.index.catalogue import TRANSCRIBED, Catalogue

LOOKED_AT = 200
"""Cues that hold any of the words, the best by BM25, of which more is looked at."""
NEEDED = 0.5
"""Share of a question's information that a cue must hold; a word that every cue has says nothing."""
PAUSE_S = 2.0
"""Cues of a film that match and lie no further apart are one moment."""
LONGEST_WORDS = 64
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class SpokenSpan:
    """Words of a film that match."""

    film: str
    start_s: float
    end_s: float
    text: str
    score: float
    """BM25, higher is better."""
    heard: bool = False
    """Whether a network heard some of them; else they are subtitles."""


def find_spoken(catalogue: Catalogue, query: str, count: int) -> list[SpokenSpan]:
    """Return the moments in which most of a question is spoken, best first."""
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(query)))[:LONGEST_WORDS]
    if not words:
        return []
    information = _information(catalogue, words)
    rows = catalogue.rows(
        "SELECT cues.id, film, start_s, end_s, cues.text, -bm25(spoken), source FROM spoken"
        " JOIN cues ON cues.id = spoken.rowid"
        " WHERE spoken MATCH ? ORDER BY rank, cues.id LIMIT ?",
        (" OR ".join(map(_quoted, words)), LOOKED_AT),
    )
    held = {row[0]: 0.0 for row in rows}
    marks = ",".join(map(str, held))
    for word in words:
        for (cue,) in catalogue.rows(
            f"SELECT rowid FROM spoken WHERE spoken MATCH ? AND rowid IN ({marks})", (_quoted(word),)
        ):
            held[cue] += information[word]
    needed = NEEDED * sum(information.values())
    spans = [
        SpokenSpan(film, start_s, end_s, text, score, source.startswith(TRANSCRIBED))
        for cue, film, start_s, end_s, text, score, source in rows
        if held[cue] >= needed
    ]
    return _joined(spans)[:count]


def _information(catalogue: Catalogue, words: list[str]) -> dict[str, float]:
    """Return how much each word says: the logarithm of one over the share of cues that have it."""
    ((cues,),) = catalogue.rows("SELECT count(*) FROM cues")
    total = int(cues)
    information = {}
    for word in words:
        ((count,),) = catalogue.rows("SELECT count(*) FROM spoken WHERE spoken MATCH ?", (_quoted(word),))
        information[word] = math.log((total + 1) / (int(count) + 0.5))
    return information


def _joined(spans: list[SpokenSpan]) -> list[SpokenSpan]:
    """Join matching neighbours; the score is the best one's."""
    joined: list[SpokenSpan] = []
    for span in sorted(spans, key=lambda span: (span.film, span.start_s)):
        last = joined[-1] if joined else None
        if last is not None and last.film == span.film and span.start_s - last.end_s <= PAUSE_S:
            joined[-1] = SpokenSpan(
                span.film,
                last.start_s,
                max(last.end_s, span.end_s),
                f"{last.text} {span.text}",
                max(last.score, span.score),
                last.heard or span.heard,
            )
        else:
            joined.append(span)
    return sorted(joined, key=lambda span: -span.score)


def _quoted(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'
