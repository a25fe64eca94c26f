"""Adding films to an index: each decoded once, whatever was killed before, whatever is broken among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import torch

from mesm.extractors.contracts import VideoEncoder
from mesm.extractors.errors import ProbeError
from mesm.pipeline.extract.run import extract_videos
from mesm.pipeline.extract.videos import VideoItem
from mesm.pipeline.index.adaptive import LASTS
from mesm.pipeline.index.catalogue import BrokenFile, IndexedFile
from mesm.pipeline.index.matrix import row_norms
from mesm.pipeline.index.pictures import PictureLane
from mesm.pipeline.index.planning import ListedFile, Plan, content_hash, make_plan
from mesm.pipeline.index.store import IndexStore
from mesm.pipeline.index.subtitles import read_cues, subtitle_state
from mesm.pipeline.run.console import ProgressBar, say

FILES_PER_ROUND = 256
"""Files whose contents are hashed before the first of them is decoded."""
SHARDS_BEFORE_COMPACTION = 64
LOCK_FILE = ".index.lock"


@dataclass(frozen=True)
class DecodeSettings:
    """How films are decoded and encoded."""

    workers: int = 1
    batch_size: int = 32
    timeout_s: float = 60.0


@dataclass
class IndexReport:
    """What a run did."""

    encoded: int = 0
    """Films that were decoded now."""
    known: int = 0
    """New or changed paths of films that the index had."""
    unchanged: int = 0
    failed: list[BrokenFile] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)
    """Files that lie no more where they lay."""
    pruned: int = 0
    rows: int = 0
    """Rows of the films that were decoded now."""
    stored: int = 0
    """Those of them that are stored: all, or those that differ from the one before."""


def add_files(
    index: IndexStore,
    places: Sequence[Path],
    encoders: Sequence[VideoEncoder],
    device: str | torch.device = "cpu",
    settings: DecodeSettings | None = None,
    prune: bool = False,
) -> IndexReport:
    """Add the videos of files and folders that are new or changed; with `prune`, forget those that are gone.

    Waits while another run adds to the index. Raises PipelineError when a place is not there; a broken file is in the
    report and stops nobody. An interrupt keeps what is complete.
    """
    with only_writer(index.path):
        finish_films(index)
        plan = make_plan(places, index.catalogue.files())
        report = IndexReport(unchanged=len(plan.unchanged), gone=plan.gone)
        _renew_subtitles(index, plan)
        with ProgressBar("films", len(plan.work)) as bar:
            for start in range(0, len(plan.work), FILES_PER_ROUND):
                files = plan.work[start : start + FILES_PER_ROUND]
                adding = _Round(index, encoders, report, bar, start)
                adding.run(files, device, settings or DecodeSettings())
        index.catalogue.remove_files(plan.gone if prune else [])
        report.pruned = len(plan.gone) if prune else 0
        for folder in index.folders:
            if len(folder.shards()) > SHARDS_BEFORE_COMPACTION:
                folder.compact()
    return report


def remove(index: IndexStore, place: Path) -> int:
    """Forget a file, or all files of a folder; returns how many."""
    with only_writer(index.path):
        path = Path(place).absolute()
        paths = [one for one in index.catalogue.files() if one == path or path in one.parents]
        paths += [one.path for one in index.catalogue.failures() if one.path == path or path in one.path.parents]
        index.catalogue.remove_files(paths)
    return len(set(paths))


def finish_films(index: IndexStore) -> None:
    """Let those films be searched whose vectors are on the disk: new ones, and those of a run that was killed."""
    for folder in index.folders:
        folder.refresh()
    ready = [film for film in index.catalogue.films_without_norms() if index.has(film)]
    if ready:
        index.catalogue.add_norms((film, row_norms(index.folder.read(film)["features"])) for film in ready)


class _Round:
    """Some files at a time: hashed, decoded where their content is new, entered."""

    def __init__(
        self, index: IndexStore, encoders: Sequence[VideoEncoder], report: IndexReport, bar: ProgressBar, done: int
    ) -> None:
        self._index, self._encoders, self._report, self._bar, self._done = index, encoders, report, bar, done
        self._waiting: dict[str, list[ListedFile]] = {}
        """Files by the film that they hold, until that film is searched."""
        self._decoded: set[str] = set()

    def run(self, files: Sequence[ListedFile], device: str | torch.device, settings: DecodeSettings) -> None:
        broken = list(self._hash(files))
        items = [VideoItem(film, of_film[0].path) for film, of_film in self._waiting.items()]
        self._decoded = {item.video_id for item in items}
        try:
            summary = extract_videos(
                items,
                self._encoders,
                self._index.folders,
                workers=settings.workers,
                batch_size=settings.batch_size,
                timeout_s=settings.timeout_s,
                device=device,
                on_progress=self._enter,
                beside=[PictureLane(self._index.catalogue)],
            )
        finally:
            self._enter(len(items), len(items))
        for failure in summary.failed:
            for file in self._waiting.pop(failure.video_id, []):
                broken.append(_broken(file, failure.reason, failure.message))
        self._index.catalogue.add_failures(broken)
        self._report.failed += broken

    def _hash(self, files: Sequence[ListedFile]) -> Iterator[BrokenFile]:
        """Enter files of known films, and have the others wait; yield those that cannot be read."""
        searched = self._index.catalogue.films()
        for file in files:
            try:
                film = content_hash(file.path)
            except ProbeError as error:
                yield _broken(file, error.reason, str(error))
                continue
            if film in searched:
                self._enter_file(film, file)
                self._report.known += 1
            else:
                self._waiting.setdefault(film, []).append(file)

    def _enter(self, settled: int, total: int) -> None:
        """Enter the files whose films are stored by now."""
        self._bar.update(self._done + settled)
        ready = [film for film in self._waiting if self._index.has(film) and self._index.catalogue.has_film(film)]
        if not ready:
            return
        finish_films(self._index)
        for film in ready:
            first, *copies = self._waiting.pop(film)
            self._report.encoded += 1
            arrays = self._index.folder.read(film)
            self._report.stored += len(arrays["features"])
            self._report.rows += int(arrays[LASTS].sum()) if LASTS in arrays else len(arrays["features"])
            self._report.known += len(copies)
            for file in (first, *copies):
                self._enter_file(film, file)

    def _enter_file(self, film: str, file: ListedFile) -> None:
        cues = read_cues(file.path, file.subtitles)
        entry = IndexedFile(file.path, file.size, file.modified_ns, film, subtitle_state(file.subtitles))
        self._index.catalogue.add_file(entry, cues)


def _renew_subtitles(index: IndexStore, plan: Plan) -> None:
    """Read subtitles that appeared or changed beside films that did not."""
    known = index.catalogue.files()
    for file in plan.unchanged:
        old = known[file.path]
        state = subtitle_state(file.subtitles)
        if state != old.subtitles:
            entry = IndexedFile(file.path, file.size, file.modified_ns, old.film_id, state)
            index.catalogue.add_file(entry, read_cues(file.path, file.subtitles))


def _broken(file: ListedFile, reason: str, message: str) -> BrokenFile:
    return BrokenFile(file.path, file.size, file.modified_ns, reason, message)


class only_writer:  # noqa: N801 - reads as a statement
    """Wait until nobody else adds to an index, and say so."""

    def __init__(self, path: Path) -> None:
        self._lock = filelock.FileLock(path / LOCK_FILE)

    def __enter__(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            say("another run adds to this index; waiting for its end")
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
