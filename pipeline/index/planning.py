"""Which files an index has to look at: those that are new or changed, by path, size and time; and their contents."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mesm.extractors.errors import ProbeError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.extract.videos import VIDEO_SUFFIXES
from mesm.pipeline.index.catalogue import IndexedFile

SUBTITLE_SUFFIXES = frozenset({".srt", ".vtt", ".ass", ".ssa"})
LONGEST_TAG = 12
"""Characters of `.en`, `.pt-BR`, `.forced` between a film's name and the suffix of its subtitles."""
_READ_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class ListedFile:
    """A file as it is now; size and time are 0 where it cannot be looked at."""

    path: Path
    size: int
    modified_ns: int
    subtitles: tuple[Path, ...] = ()
    """Subtitle files beside it."""


@dataclass
class Plan:
    """What is to be done."""

    work: list[ListedFile] = field(default_factory=list)
    """New or changed files."""
    unchanged: list[ListedFile] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)
    """Files of the index that should lie in the given places and do not."""


def make_plan(places: Sequence[Path], known: Mapping[Path, IndexedFile]) -> Plan:
    """Compare what lies in folders and files with what an index knows.

    Raises PipelineError when a place is not there: its files would all be taken for gone.
    """
    plan, seen = Plan(), set()
    roots = [Path(os.path.abspath(place)) for place in places]
    for root in roots:
        if not os.path.lexists(root):
            raise PipelineError(f"{root}: expected a video file or a folder of videos, but there is no such thing")
        for file in list_files(root):
            if file.path in seen:
                continue
            seen.add(file.path)
            old = known.get(file.path)
            if old is not None and (old.size, old.modified_ns) == (file.size, file.modified_ns):
                plan.unchanged.append(file)
            else:
                plan.work.append(file)
    within = {str(root) for root in roots}
    plan.gone = [path for path in known if path not in seen and _is_within(path, within)]
    return plan


def list_files(place: Path) -> Iterator[ListedFile]:
    """List a file, or the videos of a folder and of the folders in it, by the suffixes of their names, in order.

    Hidden files and folders are passed over, and links to folders are not followed.
    """
    if not place.is_dir():
        yield _look(place, subtitles_by_stem(_names(place.parent)))
        return
    names = _names(place)
    subtitles = subtitles_by_stem(names)
    for name in names:
        if name.startswith("."):
            continue
        path = place / name
        if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES:
            yield _look(path, subtitles)
        elif path.is_dir() and not path.is_symlink():
            yield from list_files(path)


def subtitles_by_stem(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the subtitle files of a folder by the film that they belong to: `film.srt` and `film.en.srt` to `film`."""
    found: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in SUBTITLE_SUFFIXES:
            continue
        found.setdefault(stem, []).append(name)
        for _ in range(2):
            stem, tag = os.path.splitext(stem)
            if not tag or len(tag) > LONGEST_TAG:
                break
            found.setdefault(stem, []).append(name)
    return found


def content_hash(path: Path) -> str:
    """Name a content, 32 hex digits: blake2b of all of it; ProbeError when it cannot be read or is empty."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ProbeError(f"{path}: expected a video file, found a folder, pipe or device")
        if not status.st_size:
            raise ProbeError(f"{path} is empty (0 bytes)")
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise ProbeError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise PipelineError(f"{folder} cannot be listed: {error.strerror}") from error


def _look(path: Path, subtitles: Mapping[str, Sequence[str]]) -> ListedFile:
    beside = tuple(path.parent / name for name in subtitles.get(os.path.splitext(path.name)[0], ()))
    try:
        status = os.stat(path)
    except OSError:
        return ListedFile(path, 0, 0, beside)
    return ListedFile(path, status.st_size, status.st_mtime_ns, beside)


def _is_within(path: Path, roots: set[str]) -> bool:
    return str(path) in roots or any(str(parent) in roots for parent in path.parents)
