"""The videos of a folder and of the folders in it, and which of them a run takes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesm.datasets.video_names import VIDEO_SUFFIXES
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.shown_text import one_line


@dataclass(frozen=True)
class VideoItem:
    """A video to extract."""

    video_id: str
    path: Path
    """Its file; of a film in object storage, the name there."""
    problem: str = ""
    """Why it cannot be extracted, whatever the file holds."""
    address: str = ""
    """Where it lies, if that is object storage."""
    size: int = 0
    """Bytes; known of objects."""
    modified_ns: int = 0
    """Time of the last change, in nanoseconds since 1970; known of objects, 0 where their storage does not tell."""

    @property
    def place(self) -> str:
        """Where it lies, for people."""
        return self.address or str(self.path)


def collect_videos(folder: Path) -> list[VideoItem]:
    """Return the videos of a folder and of the folders in it, by the suffixes of their names, sorted by id.

    A video's id is its path below the folder, without its suffix: `a`, `sub/a`. What begins with a dot is passed over.
    Where several files have one id, the first stands for them, with that as its problem. Raises PipelineError when
    there is no video.
    """
    if not folder.is_dir():
        raise PipelineError(f"{folder}: expected a folder of videos, but there is no such folder")
    found = names_by_id(_files(folder), str(folder))
    return [VideoItem(video_id, folder / min(found[video_id]), shared(found[video_id])) for video_id in sorted(found)]


def names_by_id(names: Iterable[str], place: str) -> dict[str, list[str]]:
    """Return the names of videos, by the suffixes that they have, by their ids; PipelineError when there are none."""
    found: dict[str, list[str]] = {}
    files = 0
    for name in names:
        files += 1
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in VIDEO_SUFFIXES:
            found.setdefault(stem, []).append(name)
    if not found:
        known = " ".join(sorted(VIDEO_SUFFIXES))
        raise PipelineError(f"{place} holds no video among its {files} files; known suffixes: {known}")
    return found


def _files(folder: Path) -> Iterator[str]:
    """Yield the paths, below the folder, of the files in it and in its subfolders; each folder is visited once."""
    visited, waiting = set(), [""]
    while waiting:
        below = waiting.pop()
        status = os.stat(folder / below)
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append(f"{below}{entry.name}/")
                else:
                    yield f"{below}{entry.name}"


def shared(names: Sequence[str]) -> str:
    """Return what is wrong with several files of one id; empty for one file."""
    if len(names) == 1:
        return ""
    listed = ", ".join(map(one_line, sorted(names)))
    return f"a video's id is its name without suffix, but these share one: {listed}; rename one"


def select_videos(items: Sequence[VideoItem], limit: int = 0, shard: str = "") -> list[VideoItem]:
    """Return part of the videos, by id: with `shard` = "i/n" every n-th from the i-th (0-based), then `limit` of them.

    Raises PipelineError for a shard that cannot be.
    """
    chosen = sorted(items, key=lambda item: item.video_id)
    if shard:
        first, slash, step = shard.partition("/")
        if not (slash and first.isdecimal() and step.isdecimal() and int(first) < int(step)):
            raise PipelineError(f"shard is {shard!r}; expected I/N with 0 <= I < N, such as 0/4")
        chosen = chosen[int(first) :: int(step)]
    return chosen[:limit] if limit else chosen


def refuse_repeated(videos: Sequence[VideoItem]) -> None:
    """Raise PipelineError when two videos have one id."""
    counts = Counter(video.video_id for video in videos)
    twice = sorted(video_id for video_id, count in counts.items() if count > 1)
    if twice:
        raise PipelineError(f"{len(twice)} ids stand for more than one video: {', '.join(twice[:10])}")
