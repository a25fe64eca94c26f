"""The videos of a folder, and which of them a run takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


def collect_videos(folder: Path) -> list[VideoItem]:
    """Return the videos of a folder, by the suffixes of their names, sorted by id: the name without its suffix.

    Raises PipelineError when there is none, or two of one id.
    """
    if not folder.is_dir():
        raise PipelineError(f"{folder}: expected a folder of videos, but there is no such folder")
    names = sorted(path.name for path in folder.iterdir() if not path.is_dir() and not path.name.startswith("."))
    paths = [folder / name for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES]
    if not paths:
        known = " ".join(sorted(VIDEO_SUFFIXES))
        raise PipelineError(f"{folder} holds no video among its {len(names)} files; known suffixes: {known}")
    counts = Counter(path.stem for path in paths)
    twice = ", ".join(sorted(one_line(path.name) for path in paths if counts[path.stem] > 1))
    if twice:
        raise PipelineError(f"{folder}: a video's id is its name without suffix, but these share one: {twice}")
    return [VideoItem(path.stem, path) for path in sorted(paths, key=lambda path: path.stem)]


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
