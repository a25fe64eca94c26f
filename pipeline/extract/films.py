"""Where an extraction has its films from: a folder, or object storage through a spool of bounded size.

What is asked of either: which content a film has, found without reading all of it; its file, when it has to be decoded;
and that the file is no longer needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.publishing import held_alone
from mesm.extractors.decoding.source_file import SourceFile
from mesm.extractors.errors import VideoError
from mesm.pipeline.extract.videos import VideoItem

SPOOL_PREFIX = "mesm-spool-"
Wanted = Callable[[VideoItem, SourceFile], bool]
"""Whether a film of this content has to be decoded."""


class FetchError(VideoError):
    """A film could not be fetched from where it lies."""

    reason = "fetch"


class Films(Protocol):
    """Where films are had from."""

    def expect(self, items: Sequence[VideoItem], wanted: Wanted) -> None:
        """Say which films come next, in their order, so that they can be made ready."""

    def look(self, item: VideoItem) -> SourceFile:
        """Say which content a film has now; a VideoError when it cannot be had."""

    def is_ready(self, item: VideoItem) -> bool:
        """Whether `look` and `take` would not wait."""

    def take(self, item: VideoItem) -> Path:
        """Return the film's file; a VideoError when it cannot be had."""

    def release(self, item: VideoItem) -> None:
        """Let go of a film's file."""


class LocalFilms:
    """Films in a folder: their files are there."""

    def expect(self, items: Sequence[VideoItem], wanted: Wanted) -> None:
        """Do nothing."""

    def look(self, item: VideoItem) -> SourceFile:
        """Read at most 1 MiB of the file."""
        return SourceFile.of(item.path)

    def is_ready(self, item: VideoItem) -> bool:
        """Return True."""
        return True

    def take(self, item: VideoItem) -> Path:
        """Return the file's own path."""
        return item.path

    def release(self, item: VideoItem) -> None:
        """Do nothing."""


class Storage(Protocol):
    """Object storage, read only."""

    def look(self, item: VideoItem) -> SourceFile | None:
        """Say which content an object has by reading parts of it; None where no parts can be read."""

    def fetch(self, item: VideoItem, target: Path, stopped: Callable[[], bool]) -> None:
        """Write an object's content to a new file; FetchError when it is not to be had, or `stopped` in between."""


@dataclass(frozen=True)
class _Fetched:
    source: SourceFile
    path: Path | None
    """None for a film that was not wanted."""


class SpooledFilms:
    """Films of object storage, fetched in their order, ahead of their use, into a folder of bounded size."""

    def __init__(self, storage: Storage, limit_bytes: int, folder: Path | None = None, downloads: int = 2) -> None:
        """Make the spool in `folder` (default: the system's temporary files); what dead runs left there is removed."""
        place = folder or Path(tempfile.gettempdir())
        self._lock = contextlib.ExitStack()
        # One after the other: a spool that is made and not yet locked looks abandoned.
        with held_alone(place, wait=True):
            _remove_abandoned(place)
            self.folder = Path(tempfile.mkdtemp(prefix=SPOOL_PREFIX, dir=place))
            self._lock.enter_context(held_alone(self.folder))
        self._storage = storage
        self._limit = limit_bytes
        self._threads = ThreadPoolExecutor(downloads, thread_name_prefix="fetch")
        self._coming: dict[str, Future[_Fetched]] = {}
        self._room = threading.Condition()
        self._used = 0
        self._held: dict[str, int] = {}
        """Bytes that each film in the spool takes, or will take."""
        self._tickets = 0
        self._turn = 0
        """The film that may take room next: films take it in their order, or the first could wait for the last."""
        self._stopped = False

    def expect(self, items: Sequence[VideoItem], wanted: Wanted) -> None:
        """Fetch films that are wanted and not yet under way."""
        for item in items:
            if item.video_id not in self._coming:
                ticket, self._tickets = self._tickets, self._tickets + 1
                self._coming[item.video_id] = self._threads.submit(self._make_ready, item, wanted, ticket)

    def look(self, item: VideoItem) -> SourceFile:
        """Wait until it is known which content a film has."""
        self.expect([item], lambda *_: True)
        return self._coming[item.video_id].result().source

    def is_ready(self, item: VideoItem) -> bool:
        """Whether a film that is expected is here, known not to be wanted, or known not to be had."""
        return self._coming[item.video_id].done()

    def take(self, item: VideoItem) -> Path:
        """Wait until a film's file is here."""
        self.expect([item], lambda *_: True)
        path = self._coming[item.video_id].result().path
        if path is None:
            raise FetchError(f"{item.address} changed while it was read")
        return path

    def release(self, item: VideoItem) -> None:
        """Remove a film's file."""
        coming = self._coming.pop(item.video_id, None)
        if coming is not None:
            self._file(item).unlink(missing_ok=True)
            self._give_back(item)

    def close(self) -> None:
        """End downloads, and remove the spool."""
        with self._room:
            self._stopped = True
            self._room.notify_all()
        self._threads.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def __enter__(self) -> SpooledFilms:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _make_ready(self, item: VideoItem, wanted: Wanted, ticket: int) -> _Fetched:
        try:
            source = self._storage.look(item)
            needed = source is None or wanted(item, source)
            if needed and item.size > self._limit:
                raise FetchError(
                    f"{item.address} has {item.size} bytes, the spool takes {self._limit}: set extract.spool_gib higher"
                )
            self._take_room(item, ticket, item.size if needed else 0)
        except BaseException:
            self._take_room(item, ticket, 0)
            raise
        if source is not None and not needed:
            return _Fetched(source, None)
        path = self._file(item)
        self._storage.fetch(item, path, lambda: self._stopped)
        os.utime(path, ns=(item.modified_ns, item.modified_ns))
        return _Fetched(source or SourceFile.of(path), path)

    def _take_room(self, item: VideoItem, ticket: int, size: int) -> None:
        """Wait for the film's turn, and for room."""
        with self._room:
            self._room.wait_for(lambda: self._stopped or self._turn >= ticket)
            self._room.wait_for(lambda: self._stopped or self._used + size <= self._limit)
            if self._turn == ticket:
                self._turn += 1
            self._used += size
            self._held[item.video_id] = self._held.get(item.video_id, 0) + size
            self._room.notify_all()

    def _give_back(self, item: VideoItem) -> None:
        with self._room:
            self._used -= self._held.pop(item.video_id, 0)
            self._room.notify_all()

    def _file(self, item: VideoItem) -> Path:
        name = hashlib.sha256(item.video_id.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.folder / f"{name}{item.path.suffix}"


def _remove_abandoned(place: Path) -> None:
    """Remove spools whose runs have ended without doing so."""
    for spool in place.glob(f"{SPOOL_PREFIX}*"):
        with contextlib.suppress(FeatureError, OSError), held_alone(spool):
            shutil.rmtree(spool, ignore_errors=True)
