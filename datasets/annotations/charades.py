"""Reader of Charades-STA: one line per query, durations in a table of the original Charades dataset."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from mesm.datasets.annotations.records import (
    VIDEO_ID_RULE,
    Annotation,
    Problems,
    Window,
    clean_moment,
    find_file,
    finite_number,
    is_video_id,
    read_text,
)
from mesm.datasets.errors import AnnotationError


def read_charades_sta(root: Path, split: str) -> list[Annotation]:
    """Read `charades_sta_<split>.txt` (lines `VIDEO START END##SENTENCE`, seconds).

    Durations are the column `length` of `Charades_v1_<split>.csv` beside it, found by the column `id`.
    Moments are cleaned by `clean_moment`; a query without a moment left is skipped, which keeps 12,405 of
    12,408 in train.
    """
    path = find_file(root, f"charades_sta_{split}.txt")
    durations = _read_durations(find_file(path.parent, f"Charades_v1_{split}.csv"))
    problems = Problems(path)
    annotations = []
    lines = [item for item in enumerate(read_text(path).split("\n"), start=1) if item[1].strip()]
    for position, (number, line) in enumerate(lines):
        parsed = _parse_line(line, f"line {number}", durations, problems)
        if parsed is None:
            continue
        video_id, moment, query = parsed
        annotations.append(Annotation(position, video_id, query, (moment,), durations[video_id], None, split))
    problems.raise_any()
    return annotations


def _parse_line(
    line: str, place: str, durations: dict[str, float], problems: Problems
) -> tuple[str, Window, str] | None:
    """Return (video, cleaned moment, sentence); None for a query that is skipped or noted as a problem."""
    head, separator, query = line.partition("##")
    fields = head.split()
    times = [_number(text) for text in fields[1:]]
    if not separator or len(times) != 2 or None in times or not query.strip():
        problems.add(place, "", "VIDEO START END##SENTENCE", line)
        return None
    if fields[0] not in durations:
        problems.add(place, "VIDEO", "a video that the table of durations lists", fields[0])
        return None
    start, end = (time for time in times if time is not None)
    moment = clean_moment(start, end, durations[fields[0]])
    return None if moment is None else (fields[0], moment, query.strip())


def _read_durations(path: Path) -> dict[str, float]:
    """Read the durations in seconds by video id."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    rows = (row for row in _readable(reader, path) if any(cell.strip() for cell in row))
    header = next(rows, [])
    if "id" not in header or "length" not in header:
        raise AnnotationError(f"{path}: expected columns id and length, found {header}")
    key, length = header.index("id"), header.index("length")
    problems = Problems(path)
    durations = {}
    for row in rows:
        duration = _number(row[length]) if len(row) > max(key, length) else None
        if duration is None or duration <= 0:
            problems.add(f"line {reader.line_num}", "length", "a duration in seconds above 0", row)
        else:
            if not is_video_id(row[key]):
                problems.add(f"line {reader.line_num}", "id", VIDEO_ID_RULE, row[key])
            durations[row[key]] = duration
    problems.raise_any()
    return durations


def _readable(rows: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    """Yield the rows of a table; AnnotationError where it is none."""
    try:
        yield from rows
    except csv.Error as error:
        raise AnnotationError(f"{path}: expected a table of comma-separated values: {error}") from error


def _number(text: str) -> float | None:
    try:
        return finite_number(float(text))
    except ValueError:
        return None
