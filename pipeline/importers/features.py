"""Import features that others released, so that training reads them like extracted ones.

One source becomes one set, and so do several, such as `train.h5` and `test.h5` of one encoder; `sources.py` says
which layouts there are. An array may be called by a video's file name: `.avi`, `.mp4` and the like are cut off, as
annotations call videos without. A video that
several sources hold with equal rows is taken once; with other rows it is a conflict, and nothing is imported.

The fingerprint of what is imported says so: its specification holds `imported`, the encoder, the clip length and
name and sha256 of the source; of several sources, those of each, whatever their order. Memory holds one batch of
videos, whatever the sources' size. An import that was interrupted continues where it stopped when it is started again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder, row_count_problem
from mesm.datasets.video_names import video_name
from mesm.pipeline.importers.sources import FeatureSource, Layout, open_source, squeezed
from mesm.pipeline.run.console import say
from mesm.pipeline.run.shown_text import one_line

DURATION_SLACK_S = 0.25
"""Annotated durations are not those of the decoded files: Charades' own table is off by up to 0.17 s."""
BATCH_BYTES = 64 * 1024**2
SHOWN_PROBLEMS = 20
SHOWN_IDS = 5


class IncompleteImportError(FeatureError):
    """Some videos could not be imported; all others are in `folder`."""

    def __init__(self, message: str, folder: FeatureFolder) -> None:
        super().__init__(message)
        self.folder = folder


@dataclass(frozen=True)
class ReleasedArray:
    """The features of one video in one source."""

    path: Path
    features: FeatureSource
    name: str
    label: str
    """What messages call it: the video's id, and the source where there are several."""

    def shape(self) -> tuple[int, int]:
        """Return (rows, dim) without reading the numbers; FeatureError when it has no such shape."""
        shape = self.features.shape(self.name)
        match squeezed(shape):
            case (rows, dim) if rows and dim:
                return rows, dim
        raise FeatureError(f"its shape is {shape}; expected (rows, dim)")

    def read(self) -> np.ndarray:
        """Return its rows (rows, dim), wider numbers as float32; FeatureError when unreadable or not finite then."""
        array = self.features.read(self.name)
        rows = array.reshape(squeezed(array.shape))
        if not np.isfinite(rows).all():
            raise FeatureError("it holds numbers that are not finite")
        if rows.dtype.itemsize <= np.dtype(np.float32).itemsize:
            return rows
        with np.errstate(over="ignore"):
            narrow = rows.astype(np.float32)
        if not np.isfinite(narrow).all():
            largest = np.abs(rows).max()
            raise FeatureError(f"its numbers do not fit into float32: the largest is {largest:g}")
        return narrow


Copies = dict[str, list[ReleasedArray]]
"""The arrays of each video, by id: one, or several where several sources hold the video."""


def import_features(
    sources: Path | Sequence[Path],
    root: Path,
    *,
    name: str,
    clip_len_s: float | None,
    layout: Layout = "auto",
    durations: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureFolder:
    """Copy one released source or several into one feature folder `<root>/<name>-<12 hex>` and return it.

    `clip_len_s` is the time that one row stands for; None takes duration / rows of each video whose duration
    (seconds, by video id) is in `durations`. `progress` is told how many videos of how many are there.

    Raises FeatureError, before anything is written, when a source has no such layout, when rows and durations
    differ by more than one clip, when none of the videos is among those of `durations`, or when sources hold different
    rows of one video (listing the videos); and, as IncompleteImportError, at the end, when single videos could not be
    read, which are listed then while all others are there.
    """
    paths = [sources] if isinstance(sources, Path) else sorted(sources, key=lambda path: (path.name, str(path)))
    named = ", ".join(map(str, paths))
    with ExitStack() as stack:
        opened = [(path, stack.enter_context(open_source(path, layout))) for path in paths]
        copies = _copies(opened)
        shapes, unreadable = _readable_shapes(copies)
        _refuse_conflicts(_shape_conflicts(copies, shapes))
        dim = _common_dim(copies, shapes, named, unreadable)
        known = _by_id(durations or {})
        _say_unknown(list(copies), known, named)
        rows = {key: shape[0][0] for key, shape in shapes.items()}
        _check_row_counts(rows, clip_len_s, known, named)
        unreadable |= _compare_copies({key: copies[key] for key in shapes if len(copies[key]) > 1})
        folder = FeatureFolder.create_or_open(root, name, _spec(name, opened, clip_len_s, dim))
        chosen = {key: copies[key][0] for key in shapes if key not in unreadable}
        unreadable |= _copy(chosen, folder, clip_len_s, known, progress)
    if unreadable:
        lines = _some_lines(unreadable[key] for key in sorted(unreadable))
        raise IncompleteImportError(
            f"{len(unreadable)} of {len(copies)} videos of {named} could not be imported, all others are in "
            f"{folder.path}:\n{lines}",
            folder,
        )
    return folder


def _spec(
    name: str, opened: Sequence[tuple[Path, FeatureSource]], clip_len_s: float | None, dim: int
) -> dict[str, Any]:
    distinct = sorted({(path.name, features.sha256()) for path, features in opened})
    origin: dict[str, Any] = {"sources": [{"name": file, "sha256": digest} for file, digest in distinct]}
    if len(distinct) == 1:
        origin = {"source": distinct[0][0], "source_sha256": distinct[0][1]}
    return {
        "imported": True,
        "encoder": name,
        **origin,
        "clip_len_s": "duration / rows" if clip_len_s is None else clip_len_s,
        "dim": dim,
    }


def _copies(opened: Sequence[tuple[Path, FeatureSource]]) -> Copies:
    """Return the arrays of each video, in order of the sources and of their arrays' names."""
    copies: Copies = {}
    for path, features in opened:
        where = f" in {path}" if len(opened) > 1 else ""
        for key, name in _names_by_id(features, path).items():
            copies.setdefault(key, []).append(ReleasedArray(path, features, name, f"{key}{where}"))
    return copies


def _names_by_id(features: FeatureSource, source: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in features.names():
        key = video_name(name)
        if key in names:
            raise FeatureError(f"{source} holds both {names[key]} and {name}; expected one array per video")
        names[key] = name
    if not names:
        raise FeatureError(f"{source} holds no arrays; expected one per video")
    return names


def _by_id(durations: Mapping[str, float]) -> dict[str, float]:
    return {video_name(video_id): duration for video_id, duration in durations.items()}


def _say_unknown(videos: Sequence[str], durations: Mapping[str, float], named: str) -> None:
    """Say which videos are not annotated, so that nothing tells how long they are; FeatureError when none is."""
    unknown = [video for video in videos if video not in durations]
    if not durations or not unknown:
        return
    shown = ", ".join(unknown[:SHOWN_IDS])
    if len(unknown) == len(videos):
        raise FeatureError(
            f"none of the {len(videos)} videos of {named} is annotated: they are called {shown}, those of the "
            f"annotations {', '.join(sorted(durations)[:SHOWN_IDS])}; give the annotations of these features, or none"
        )
    say(
        f"note: {len(unknown)} of {len(videos)} videos are not annotated, so their rows were not compared with a "
        f"duration: {shown}"
    )


def _readable_shapes(copies: Copies) -> tuple[dict[str, list[tuple[int, int]]], dict[str, str]]:
    """Return the shapes (rows, dim) of each video's arrays, and why some have none; of one array, none is taken."""
    shapes: dict[str, list[tuple[int, int]]] = {}
    unreadable: dict[str, str] = {}
    for key, arrays in copies.items():
        try:
            for array in arrays:
                shapes.setdefault(key, []).append(array.shape())
        except FeatureError as error:
            shapes.pop(key, None)
            unreadable[key] = f"{array.label}: {error}"
    return shapes, unreadable


def _shape_conflicts(copies: Copies, shapes: Mapping[str, Sequence[tuple[int, int]]]) -> list[str]:
    return [
        f"{key}: " + ", ".join(f"{shape} in {array.path}" for array, shape in zip(copies[key], found, strict=True))
        for key, found in shapes.items()
        if len(set(found)) > 1
    ]


def _compare_copies(shared: Copies) -> dict[str, str]:
    """Compare the rows of videos that several sources hold; return which could not be compared, and why, by id.

    Raises FeatureError when any differ, and says which videos are taken once otherwise.
    """
    unreadable: dict[str, str] = {}
    conflicts = []
    for key, (first, *others) in shared.items():
        array = first
        try:
            rows = first.read()
            for array in others:
                if not np.array_equal(rows, array.read()):
                    conflicts.append(f"{key}: other numbers in {first.path} than in {array.path}")
        except FeatureError as error:
            unreadable[key] = f"{array.label}: {error}"
    _refuse_conflicts(conflicts)
    equal = [key for key in shared if key not in unreadable]
    if equal:
        lines = _some_lines(f"{key}: {', '.join(str(array.path) for array in shared[key])}" for key in equal)
        say(f"{len(equal)} videos have equal rows in several sources and are taken once:\n{lines}")
    return unreadable


def _refuse_conflicts(conflicts: Sequence[str]) -> None:
    if conflicts:
        raise FeatureError(
            "sources hold different rows of the same videos, so they cannot be one set; leave out the wrong copies, or "
            f"import the sources one by one into sets of their own:\n{_some_lines(conflicts)}"
        )


def _common_dim(
    copies: Copies,
    shapes: Mapping[str, Sequence[tuple[int, int]]],
    named: str,
    unreadable: Mapping[str, str],
) -> int:
    if not shapes:
        raise FeatureError(f"no array of {named} can be imported:\n{_some_lines(unreadable.values())}")
    dims = statistics.multimode(found[0][1] for found in shapes.values())
    odd = {key: found[0] for key, found in shapes.items() if found[0][1] != dims[0]}
    if odd:
        lines = _some_lines(f"{copies[key][0].label}: {shape}" for key, shape in odd.items())
        raise FeatureError(f"{named}: most arrays are (rows, {dims[0]}), {len(odd)} are not:\n{lines}")
    return dims[0]


def _check_row_counts(
    rows: Mapping[str, int], clip_len_s: float | None, durations: Mapping[str, float], named: str
) -> None:
    problems = {
        key: problem
        for key, count in rows.items()
        if (problem := row_count_problem(count, clip_len_s, durations.get(key), DURATION_SLACK_S))
    }
    if not problems:
        return
    typical = statistics.median(durations[key] / count for key, count in rows.items() if key in durations)
    lines = _some_lines(f"{key}: {problem}" for key, problem in problems.items())
    raise FeatureError(
        f"{named}: rows times the clip length of {clip_len_s:g} s are off the duration by more than a "
        f"clip in {len(problems)} of {len(rows)} videos; a row there lasts {typical:.4g} s (median). "
        f"Give that as the clip length, or none for duration / rows:\n{lines}"
    )


def _copy(
    chosen: Mapping[str, ReleasedArray],
    folder: FeatureFolder,
    clip_len_s: float | None,
    durations: Mapping[str, float],
    progress: Callable[[int, int], None],
) -> dict[str, str]:
    """Copy what the folder does not hold yet; return why videos were left out, by id."""
    left_out: dict[str, str] = {}
    with folder.writer() as writer:
        for done, (key, array) in enumerate(chosen.items(), start=1):
            if key not in folder:
                try:
                    rows = array.read()
                    duration = durations.get(key)
                    clip_len = duration / len(rows) if clip_len_s is None and duration else clip_len_s
                    writer.add(key, {"features": rows}, clip_len_s=clip_len, duration_s=duration)
                except FeatureError as error:
                    left_out[key] = f"{array.label}: {error}"
            if writer.pending_bytes >= BATCH_BYTES:
                writer.publish()
            progress(done, len(chosen))
    return left_out


def _some_lines(lines: Iterable[str]) -> str:
    every = [f"  {one_line(line)}" for line in lines]
    more = [f"  ... and {len(every) - SHOWN_PROBLEMS} more"] if len(every) > SHOWN_PROBLEMS else []
    return "\n".join(every[:SHOWN_PROBLEMS] + more)
