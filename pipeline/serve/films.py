"""The films that the page shows, each known to browsers by a key that says nothing of where it lies."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from mesm.extractors.errors import VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.index.catalogue import Film, IndexedFile
from mesm.pipeline.report.served_page import PlayedFilm
from mesm.pipeline.run.shown_text import one_line
from mesm.pipeline.serve.uploads import Upload
from mesm.pipeline.show.browsers import plays


class GoneError(PipelineError):
    """A film is not there any more, or is not the one that was looked at."""


@dataclass(frozen=True, eq=False)
class ServedFilm:
    """One film that may be shown."""

    key: str
    name: str
    path: Path
    duration_s: float
    size: int
    modified_ns: int
    film_id: str = ""
    """Its content in the index; empty for an upload."""

    @cached_property
    def plays(self) -> bool:
        """Whether browsers play it as it is."""
        try:
            return plays(self.path)
        except VideoError:
            return False

    @property
    def played(self) -> PlayedFilm:
        """The film as the page knows it."""
        return PlayedFilm(self.key, self.name, self.duration_s, self.plays)

    def open(self) -> BinaryIO:
        """Open the file; GoneError when it is not the one that was looked at, so that no other is ever sent."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise GoneError(f"{self.name} is not there any more") from error
        status = os.fstat(descriptor)
        same = (status.st_size, status.st_mtime_ns) == (self.size, self.modified_ns)
        if not stat.S_ISREG(status.st_mode) or not same:
            os.close(descriptor)
            raise GoneError(f"{self.name} was changed since it was indexed")
        return os.fdopen(descriptor, "rb", buffering=0)


def uploaded(upload: Upload) -> ServedFilm:
    """Return an upload as a film."""
    assert upload.info is not None
    status = upload.path.stat()
    return ServedFilm(
        upload.key, one_line(upload.name), upload.path, upload.info.duration_s, status.st_size, status.st_mtime_ns
    )


class IndexedFilms:
    """The films of an index, by key and by path."""

    def __init__(self) -> None:
        """Begin with none; keys hold for one run of the server."""
        self._secret = secrets.token_bytes(32)
        self._by_key: dict[str, ServedFilm] = {}
        self._by_path: dict[Path, ServedFilm] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def update(self, files: Iterable[IndexedFile], films: dict[str, Film]) -> None:
        """Take what the index has now; films that did not change stay the same objects."""
        present = [file for file in files if file.film_id in films]
        common = Path(os.path.commonpath([file.path.parent for file in present])) if present else Path("/")
        by_path = {}
        for file in present:
            old = self._by_path.get(file.path)
            if old is not None and (old.film_id, old.modified_ns) == (file.film_id, file.modified_ns):
                by_path[file.path] = old
                continue
            by_path[file.path] = ServedFilm(
                hashlib.blake2b(os.fsencode(file.path), digest_size=16, key=self._secret).hexdigest(),
                one_line(str(file.path.relative_to(common))),
                file.path,
                films[file.film_id].duration_s,
                file.size,
                file.modified_ns,
                file.film_id,
            )
        self._by_path, self._by_key = by_path, {film.key: film for film in by_path.values()}

    def get(self, key: str) -> ServedFilm | None:
        """Return a film by its key."""
        return self._by_key.get(key)

    def at(self, path: Path) -> ServedFilm | None:
        """Return the film of a path."""
        return self._by_path.get(path)

    def all(self) -> list[ServedFilm]:
        """Return all films by name."""
        return sorted(self._by_key.values(), key=lambda film: film.name.casefold())
