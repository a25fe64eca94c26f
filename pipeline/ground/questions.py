"""What is asked: a sentence or a picture, and what is not wanted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mesm.datasets.annotations.records import read_text
from mesm.datasets.plain_text import parse_json
from mesm.pipeline.config.errors import PipelineError

WITHOUT = 0.5
"""How much of what is not wanted is taken off, where no other weight is given."""
_WEIGHT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """One question."""

    text: str = ""
    picture: Path | None = None
    """Instead of a text."""
    without: Sequence[str] = ()
    """Texts that are not wanted; `2:horse` gives one a weight."""

    @property
    def name(self) -> str:
        """What answers show as the question."""
        return self.text.strip() if self.picture is None else str(self.picture)

    @property
    def plain(self) -> bool:
        """Whether it is a sentence and nothing else."""
        return self.picture is None and not self.without


def weighted(text: str) -> tuple[float, str]:
    """Return the weight and the words of a text that is not wanted."""
    found = _WEIGHT.fullmatch(text.strip())
    return (float(found[1]), found[2]) if found else (WITHOUT, text)


def read_questions(file: Path) -> list[str]:
    """Read sentences from a file: one a line, or JSON lines with `query`; blank lines are passed over.

    Raises PipelineError for a file without any, and for a line of JSON without a query, with its number.
    """
    sentences = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        text = line.strip()
        if not text:
            continue
        if text.startswith("{"):
            text = _query_of(text, f"{file}, line {number}")
        sentences.append(text)
    if not sentences:
        raise PipelineError(f"{file} holds no query; expected one a line, or JSON lines with `query`")
    return sentences


def _query_of(line: str, place: str) -> str:
    try:
        query = parse_json(line)["query"]
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{place}: expected a JSON object with `query`, found {line[:60]}") from error
    if not isinstance(query, str) or not query.strip():
        raise PipelineError(f"{place}: expected a sentence as `query`, found {query!r:.60}")
    return query.strip()
