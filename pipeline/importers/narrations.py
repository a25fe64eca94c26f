"""Narrations of other people's making, and Charades' own actions as a narrator, into a folder of narrations."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mesm.datasets.annotations.records import Problems, finite_number, read_text
from mesm.datasets.narration import NARRATIONS, Passage, narration_lines, read_narrations, to_arrays
from mesm.datasets.shards.folder import FeatureFolder
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say

ORACLE = "oracle"
"""Narrator that knows the truth of a sister task, which every page that shows its figures must say."""
HALF_S = 0.5
"""Where in each second the oracle looks."""


def import_narrations(
    source: Path, features: Path, durations_s: Mapping[str, float], lenient: bool = False
) -> FeatureFolder:
    """Put JSON lines of `video_id`, `time_s` and `text` into a folder of narrations below `features`, and return it.

    durations_s: the videos that there are and how long they are; empty: any. AnnotationError with every line that does
    not fit; with `lenient` these are left out and counted.
    """
    found, skipped = read_narrations(source, durations_s, lenient)
    if skipped:
        say(f"{skipped} lines of {source} do not fit and are left out")
    if not found:
        raise PipelineError(f"{source} holds no narration")
    return store(found, features, {"narrator": "imported"})


def store(found: Mapping[str, Sequence[Passage]], features: Path, spec: Mapping[str, str]) -> FeatureFolder:
    """Write the passages of videos into a folder of their own; other passages are another folder."""
    ordered = {video: sorted(found[video], key=lambda passage: passage.time_s) for video in sorted(found)}
    digest = hashlib.sha256("\n".join(narration_lines(ordered)).encode()).hexdigest()
    folder = FeatureFolder.create_or_open(features, NARRATIONS, {**spec, "sha256": digest})
    with folder.writer() as writer:
        for video, passages in ordered.items():
            if video not in folder:
                writer.add(video, to_arrays(passages))
    count = sum(map(len, ordered.values()))
    say(f"{count} passages of {len(ordered)} videos in {folder.path}")
    return folder


def oracle_narrations(table: Path, classes: Path) -> dict[str, list[Passage]]:
    """Narrate Charades by its annotators' actions, one passage a second: an upper bound, as it is made from truth.

    table: a Charades_v1_*.csv with `id`, `length` and `actions` (`c092 11.90 21.20;c147 0.00 12.60`); classes: lines of
    `c000 Holding some clothes`. At second t each action that is under way at t + 0.5 is named, in the table's order, up
    to a slash. AnnotationError with every row that does not fit.
    """
    names = _class_names(classes)
    problems, found = Problems(table), dict[str, list[Passage]]()
    rows = csv.DictReader(io.StringIO(read_text(table)))
    if not {"id", "length", "actions"} <= set(rows.fieldnames or ()):
        raise PipelineError(
            f"{table} has the columns {', '.join(rows.fieldnames or ())}; expected id, length and actions, as in "
            "Charades_v1_train.csv"
        )
    for number, row in enumerate(rows, start=2):
        place, length = f"line {number}", _seconds(row["length"])
        actions = [_action(text, names) for text in (row["actions"] or "").split(";") if text]
        if length is None or length < 0:
            problems.add(place, "length", "seconds, at least 0", row["length"])
        elif None in actions:
            problems.add(place, "actions", "`c092 11.90 21.20;...` of known classes", row["actions"])
        else:
            known = [action for action in actions if action is not None]
            found[row["id"]] = [_said_at(second, known) for second in range(math.floor(length) + 1)]
    problems.raise_any()
    return found


def _said_at(second: int, actions: Sequence[tuple[str, float, float]]) -> Passage:
    """Name what is under way in a second."""
    names = [name for name, start, end in actions if start <= second + HALF_S <= end]
    return Passage(float(second), " ".join(f"{name}." for name in names))


def _class_names(path: Path) -> dict[str, str]:
    problems, names = Problems(path), {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        code, _, name = line.strip().partition(" ")
        if code and not name:
            problems.add(f"line {number}", "", "a class and its name", line)
        elif code:
            names[code] = " ".join(word.partition("/")[0] for word in name.split())
    problems.raise_any()
    return names


def _action(text: str, names: Mapping[str, str]) -> tuple[str, float, float] | None:
    parts = text.split()
    if len(parts) != 3 or parts[0] not in names:
        return None
    start, end = _seconds(parts[1]), _seconds(parts[2])
    return None if start is None or end is None else (names[parts[0]], start, end)


def _seconds(text: str | None) -> float | None:
    try:
        return finite_number(float(text or ""))
    except ValueError:
        return None
