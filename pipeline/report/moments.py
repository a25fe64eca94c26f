"""A table of moments, as notebooks show it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from mesm.pipeline.report.page import render, seconds_text


@dataclass(frozen=True)
class MomentRow:
    """One moment."""

    start_s: float
    end_s: float
    score: float
    file: str = ""
    notes: Sequence[str] = ()
    thumbnail: bytes | None = None
    """A JPEG."""

    @property
    def start(self) -> str:
        """Start as people write it."""
        return seconds_text(self.start_s)

    @property
    def end(self) -> str:
        """End as people write it."""
        return seconds_text(self.end_s)

    @property
    def picture(self) -> str:
        """The thumbnail in base64."""
        return base64.b64encode(self.thumbnail).decode() if self.thumbnail else ""


def moments_table(query: str, rows: Sequence[MomentRow]) -> str:
    """Return HTML; text in rows is escaped."""
    files, pictures = any(row.file for row in rows), any(row.thumbnail for row in rows)
    return str(render("moments.html.j2", query=query, rows=rows, files=files, pictures=pictures))
