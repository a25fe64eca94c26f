"""One record per query, and the parts that every annotation reader shares.

A reader never stops at the first mistake of a file: it collects them in `Problems` and raises them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mesm.datasets.errors import AnnotationError
from mesm.datasets.plain_text import parse_json, read_plain_text

Window = tuple[float, float]

SHOWN_PROBLEMS = 200
MOST_CLIPS = 1_000_000
"""Clips of the longest video that is judged clip by clip: 23 days of 2 seconds."""
HIGHEST_SCORE = 1e6
"""Far beyond the 4 of the published judgements, and far from where sums of scores are no numbers any more."""
ANNOTATIONS_FOLDER = "annotations"
VIDEO_ID_RULE = "a relative name without '..' and control characters"


@dataclass(frozen=True)
class Saliency:
    """How relevant the clips of a video are to a query, as several annotators judged it (QVHighlights)."""

    clip_ids: tuple[int, ...]
    """The relevant clips: clip i covers [i, i + 1) * `clip_len_s` seconds. All others are irrelevant."""
    scores: tuple[tuple[float, ...], ...]
    """One tuple per entry of `clip_ids`: each annotator's score, 0 (very bad) to 4 (very good)."""
    clip_len_s: float = 2.0


@dataclass(frozen=True)
class Annotation:
    """A sentence about a video and the moments that it describes."""

    query_id: int | str
    """Unique within a split. Datasets without ids: the query's position in the file, from 0."""
    video_id: str
    query: str
    moments: tuple[Window, ...]
    """(start, end) in seconds of each ground-truth moment, cleaned as the reader documents."""
    duration_s: float | None
    saliency: Saliency | None
    split: str


class Problems:
    """Collects what is wrong with one annotation file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lines: list[str] = []

    def add(self, place: str, field: str, expected: str, found: object) -> None:
        """Note that `field` at `place` (such as `line 3`) holds `found` where `expected` should stand."""
        prefix = f"{self._file}: {place}: " + (f"{field}: " if field else "")
        self._lines.append(f"{prefix}expected {expected}, found {shorten(found)}")

    def raise_any(self) -> None:
        """Raise AnnotationError with everything noted so far; do nothing when the file is sound."""
        if not self._lines:
            return
        shown = self._lines[:SHOWN_PROBLEMS]
        if len(self._lines) > len(shown):
            shown.append(f"... and {len(self._lines) - len(shown)} more")
        noun = "problem" if len(self._lines) == 1 else "problems"
        raise AnnotationError(f"{len(self._lines)} {noun} in {self._file}:\n" + "\n".join(shown))


@dataclass(frozen=True)
class RecordFields:
    """Typed access to one JSON object of an annotation file; what does not fit is noted in `problems`."""

    record: Mapping[str, Any]
    place: str
    problems: Problems

    def reject(self, field: str, expected: str, found: object) -> None:
        """Note a problem of one field."""
        self.problems.add(self.place, field, expected, found)

    def text(self, field: str) -> str:
        """Return a non-empty string without surrounding white space."""
        value = self.record.get(field)
        if isinstance(value, str) and value.strip() and is_unicode(value):
            return value.strip()
        self.reject(field, "a non-empty string", self._found(field))
        return ""

    def identifier(self, field: str) -> int | str:
        """Return an integer or a non-empty string."""
        value = self.record.get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip() and is_unicode(value):
            return value
        self.reject(field, "an integer or a non-empty string", self._found(field))
        return ""

    def video_id(self, field: str) -> str:
        """Return a video's name: relative, without `..`, so that no file is looked for outside its folder."""
        name = self.text(field)
        if name and not is_video_id(name):
            self.reject(field, VIDEO_ID_RULE, name)
        return name

    def positive_number(self, field: str) -> float:
        """Return a finite number above 0."""
        number = finite_number(self.record.get(field))
        if number is not None and number > 0:
            return number
        self.reject(field, "a number above 0", self._found(field))
        return math.nan

    def windows(self, field: str) -> tuple[Window, ...]:
        """Return [[start, end], ...] with at least one entry and 0 <= start < end, in seconds."""
        value = self.record.get(field)
        if not isinstance(value, list) or not value:
            self.reject(field, "a non-empty list of [start, end] in seconds", self._found(field))
            return ()
        windows = []
        for position, entry in enumerate(value):
            window = number_pair(entry)
            if window is None or not 0 <= window[0] < window[1]:
                self.reject(f"{field}[{position}]", "[start, end] in seconds with 0 <= start < end", entry)
            else:
                windows.append(window)
        return tuple(windows)

    def require_starts_within(self, field: str, windows: Iterable[Window], duration: float) -> None:
        """Note windows that begin when the video, of a known duration in seconds, has ended."""
        for window in windows:
            if window[0] >= duration:
                self.reject(field, f"a start before the duration of {duration} s", list(window))

    def saliency(self, ids_field: str, scores_field: str) -> Saliency | None:
        """Return the scores of the relevant clips: distinct clip numbers and one list of scores for each."""
        ids = self.record.get(ids_field)
        if not isinstance(ids, list) or not all(type(clip) is int and 0 <= clip < MOST_CLIPS for clip in ids):
            self.reject(ids_field, f"a list of clip numbers from 0 to {MOST_CLIPS - 1}", self._found(ids_field))
            return None
        if len(set(ids)) != len(ids):
            self.reject(ids_field, "distinct clip numbers", ids)
            return None
        scores: Any = self.record.get(scores_field)
        if not _is_score_table(scores, len(ids)):
            expected = f"{len(ids)} lists of scores >= 0, equally long, one for each clip number"
            self.reject(scores_field, expected, self._found(scores_field))
            return None
        return Saliency(tuple(ids), tuple(tuple(map(float, clip)) for clip in scores)) if ids else None

    def _found(self, field: str) -> object:
        return self.record[field] if field in self.record else _Missing(sorted(map(str, self.record)))


class _Missing:
    """Stands for an absent field in a message."""

    def __init__(self, present: list[str]) -> None:
        self._present = present

    def __repr__(self) -> str:
        return f"no such field (there are: {', '.join(self._present) or 'none'})"


def shorten(value: object, limit: int = 120) -> str:
    """Show a value in a message, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def is_unicode(text: str) -> bool:
    """Tell whether a string can be written as UTF-8; JSON can smuggle in lone surrogates, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_video_id(name: str) -> bool:
    """Tell whether a name can stand for a video without leading outside the folder of videos."""
    path = PurePosixPath(name.replace("\\", "/"))
    return bool(name) and name.isprintable() and not path.is_absolute() and ".." not in path.parts


def finite_number(value: object) -> float | None:
    """Return an int or float as a float; None for anything else, and for infinities and NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def number_pair(value: object) -> Window | None:
    """Return a list of two finite numbers as a tuple; None for anything else."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    first, second = finite_number(value[0]), finite_number(value[1])
    return None if first is None or second is None else (first, second)


def clean_moment(start: float, end: float, duration: float, drop_reversed: bool = False) -> Window | None:
    """Clean one moment as the published loaders do (MESM data loaders, Charades family and TACoS).

    A moment that starts after the video's end, or ends before its start, is dropped (None). One whose start lies after
    its end is swapped, or dropped with `drop_reversed` (TACoS). Then both ends are clipped to [0, duration]. All in
    seconds.
    """
    if start > duration:
        return None
    if start > end:
        if drop_reversed:
            return None
        start, end = end, start
    return None if end < 0 else (max(start, 0.0), min(end, duration))


def find_file(root: Path, name: str) -> Path:
    """Return `root/name` or `root/annotations/name`; `root` may also be the file itself, whatever its name.

    Raises AnnotationError naming the file and the folders in which it was expected.
    """
    if root.is_file():
        return root
    for candidate in (root / name, root / ANNOTATIONS_FOLDER / name):
        if candidate.is_file():
            return candidate
    if not root.is_dir():
        raise AnnotationError(f"expected {name} in {root}, but there is no such folder")
    present = ", ".join(sorted(entry.name for entry in root.iterdir())[:20]) or "nothing"
    folders = f"{root} or {root / ANNOTATIONS_FOLDER}"
    raise AnnotationError(f"expected {name} in {folders}, but it is not there; {root} holds: {present}")


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark; raises AnnotationError that says what it is instead."""
    try:
        return read_plain_text(path)
    except ValueError as error:
        raise AnnotationError(f"{path}: {error}") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object; raises AnnotationError for anything else."""
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        raise AnnotationError(f"{path}: expected one JSON object, found no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: expected one JSON object, found {shorten(content)}")
    return content


def read_json_lines(path: Path, problems: Problems) -> Iterator[RecordFields]:
    """Yield the JSON object of each line that is not blank; a line that holds none is noted in `problems`."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            problems.add(f"line {number}", "", f"one JSON object ({error})", line)
            continue
        if isinstance(record, dict):
            yield RecordFields(record, f"line {number}", problems)
        else:
            problems.add(f"line {number}", "", "one JSON object", record)


def _is_score_table(scores: Any, rows: int) -> bool:
    """Tell whether `scores` is a list of `rows` equally long lists of finite numbers >= 0."""
    if not isinstance(scores, list) or len(scores) != rows:
        return False
    if not rows:
        return True
    lengths = {len(clip) if isinstance(clip, list) else 0 for clip in scores}
    if len(lengths) != 1 or 0 in lengths:
        return False
    try:
        table = np.asarray(scores)
    except (ValueError, OverflowError):
        return False
    return table.ndim == 2 and table.dtype.kind in "iuf" and bool(np.all((table >= 0) & (table <= HIGHEST_SCORE)))
