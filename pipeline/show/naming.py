"""Names of files that are made of films: plain on every system, and told apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

LONGEST_STEM = 120
"""Bytes of a film's name that are kept: a file name may have 255."""


def plain_stem(name: str) -> str:
    """Return a file name's stem without what a shell, a browser or another system would stumble over."""
    stem = unicodedata.normalize("NFC", Path(name).stem.encode("utf-8", "replace").decode("utf-8"))
    stem = re.sub(r"[^\w .()+,-]", "_", stem).strip(" .").lstrip("-")
    return stem.encode("utf-8")[:LONGEST_STEM].decode("utf-8", "ignore").strip(" .") or "film"


def moment_name(film: Path, start_s: float, end_s: float) -> str:
    """Return the stem of what is made of a moment: the film's name and the seconds."""
    return f"{plain_stem(film.name)}_{start_s:.2f}-{end_s:.2f}"


def distinct(name: str, suffix: str, taken: Iterable[str]) -> str:
    """Return a file name that is none of the taken ones, whatever their case: NAME.mp4, NAME_2.mp4 and so on."""
    known = {one.casefold() for one in taken}
    found, number = name + suffix, 2
    while found.casefold() in known:
        found, number = f"{name}_{number}{suffix}", number + 1
    return found
