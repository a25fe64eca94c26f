"""What an index knows of its files beside their vectors: one SQLite file, one transaction a film.

A *film* is a content, named by its hash; a *file* is a path where it lies. A film that was moved or copied is not
decoded again. A film is searched once its row `norms` are there, which are written after its vectors are on the disk:
so whatever a killed run leaves is either whole or not seen, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mesm.pipeline.config.errors import PipelineError

CATALOGUE_FILE = "catalogue.sqlite"
VERSION = 1
TRANSCRIBED = "transcribed by "
"""Sources of cues that a network heard begin with this."""
HEARD = "heard "
"""Names of facts that say how far a film was heard; its id follows."""
BUSY_S = 60.0
"""Seconds for which a writer waits for another one."""

_SCHEMA = """
CREATE TABLE films(
    id TEXT PRIMARY KEY, size INTEGER NOT NULL, duration_s REAL NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, norms BLOB
);
CREATE TABLE files(
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, film TEXT NOT NULL,
    subtitles TEXT NOT NULL DEFAULT '', added_s REAL NOT NULL
);
CREATE INDEX files_of_films ON files(film);
CREATE TABLE failures(
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, reason TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE TABLE thumbnails(film TEXT NOT NULL, second REAL NOT NULL, picture BLOB NOT NULL, UNIQUE(film, second));
CREATE TABLE cues(
    id INTEGER PRIMARY KEY, film TEXT NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL, text TEXT NOT NULL,
    source TEXT NOT NULL
);
CREATE INDEX cues_of_films ON cues(film, start_s);
CREATE VIRTUAL TABLE spoken USING fts5(
    text, content='cues', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER cue_added AFTER INSERT ON cues BEGIN
    INSERT INTO spoken(rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER cue_removed AFTER DELETE ON cues BEGIN
    INSERT INTO spoken(spoken, rowid, text) VALUES ('delete', old.id, old.text);
END;
CREATE VIRTUAL TABLE spoken_words USING fts5vocab(spoken, row);
CREATE TABLE facts(name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Film:
    """One content."""

    film_id: str
    size: int
    """Bytes."""
    duration_s: float
    width: int
    height: int


@dataclass(frozen=True)
class IndexedFile:
    """A path, as it was when it was looked at."""

    path: Path
    size: int
    modified_ns: int
    film_id: str
    subtitles: str = ""
    """Which subtitles its film's cues were made of."""
    added_s: float = 0.0
    """Seconds since 1970."""


@dataclass(frozen=True)
class Cue:
    """Words that are spoken, or shown as subtitles."""

    start_s: float
    end_s: float
    text: str
    source: str


@dataclass(frozen=True)
class BrokenFile:
    """A file that could not be read."""

    path: Path
    size: int
    modified_ns: int
    reason: str
    message: str


class Catalogue:
    """The SQLite file of an index."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Stand for an open file; use `create_or_open` or `open`."""
        self.path, self._connection = path, connection

    @classmethod
    def create_or_open(cls, path: Path) -> Catalogue:
        """Open for writing, making tables that are not there; PipelineError as in `open`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        catalogue = cls(_connect(path, f"{path.absolute().as_uri()}?mode=rwc"), path)
        with _readable(path):
            catalogue._connection.execute("PRAGMA journal_mode=WAL")
            catalogue._connection.execute("PRAGMA synchronous=FULL")
            with catalogue.writing():
                if not catalogue._version():
                    for statement in _statements(_SCHEMA):
                        catalogue._connection.execute(statement)
                    catalogue._connection.execute(f"PRAGMA user_version={VERSION}")
        catalogue._refuse_other_version()
        return catalogue

    @classmethod
    def open(cls, path: Path) -> Catalogue:
        """Open one that exists; PipelineError when it is damaged or of another version."""
        catalogue = cls(_connect(path, f"{path.absolute().as_uri()}?mode=rw"), path)
        catalogue._refuse_other_version()
        return catalogue

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: all that is written inside is there afterwards, or, after an error, nothing of it."""
        with _readable(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def add_film(self, film: Film, thumbnails: Iterable[tuple[float, bytes]]) -> None:
        """Keep what decoding a film gave, in one transaction; it is not searched before `add_norms`."""
        with self.writing():
            self._connection.execute(
                "INSERT OR REPLACE INTO films(id, size, duration_s, width, height) VALUES (?, ?, ?, ?, ?)",
                (film.film_id, film.size, film.duration_s, film.width, film.height),
            )
            self._connection.execute("DELETE FROM thumbnails WHERE film = ?", (film.film_id,))
            self._connection.executemany(
                "INSERT INTO thumbnails VALUES (?, ?, ?)",
                [(film.film_id, second, picture) for second, picture in thumbnails],
            )

    def add_norms(self, norms: Iterable[tuple[str, np.ndarray]]) -> None:
        """Say that the vectors of these films are stored; their lengths (rows,)."""
        with self.writing():
            self._connection.executemany(
                "UPDATE films SET norms = ? WHERE id = ?",
                [(values.astype("<f4").tobytes(), film) for film, values in norms],
            )

    def add_file(self, file: IndexedFile, cues: Sequence[Cue] | None = None) -> None:
        """Keep where a film lies; with cues, in place of those that its film had. One transaction."""
        with self.writing():
            self._connection.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                (os.fsencode(file.path), file.size, file.modified_ns, file.film_id, file.subtitles, time.time()),
            )
            self._connection.execute("DELETE FROM failures WHERE path = ?", (os.fsencode(file.path),))
            if cues is not None:
                # What was heard stays where there are no subtitles, and makes way for them.
                self._remove_cues(file.film_id, heard=bool(cues))
                self._insert_cues(file.film_id, cues)

    def add_transcript(self, film: str, cues: Sequence[Cue], state: bytes, anew: bool = False) -> None:
        """Keep what was heard of a film, and how far it was heard; anew: in place of what was heard before."""
        with self.writing():
            if anew:
                self._connection.execute("DELETE FROM cues WHERE film = ? AND source GLOB ?", (film, f"{TRANSCRIBED}*"))
            self._insert_cues(film, cues)
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (HEARD + film, state))

    def transcript(self, film: str) -> bytes | None:
        """Return how far a film was heard, as `add_transcript` was told; None when it was not."""
        return self.fact(HEARD + film)

    def _remove_cues(self, film: str, heard: bool) -> None:
        kept = "" if heard else f" AND source NOT GLOB '{TRANSCRIBED}*'"
        self._connection.execute(f"DELETE FROM cues WHERE film = ?{kept}", (film,))
        if heard:
            self._connection.execute("DELETE FROM facts WHERE name = ?", (HEARD + film,))

    def _insert_cues(self, film: str, cues: Sequence[Cue]) -> None:
        self._connection.executemany(
            "INSERT INTO cues(film, start_s, end_s, text, source) VALUES (?, ?, ?, ?, ?)",
            [(film, cue.start_s, cue.end_s, cue.text, cue.source) for cue in cues],
        )

    def add_failures(self, broken: Iterable[BrokenFile]) -> None:
        """Keep which files could not be read."""
        with self.writing():
            self._connection.executemany(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)",
                [
                    (os.fsencode(one.path), one.size, one.modified_ns, one.reason, _printable(one.message))
                    for one in broken
                ],
            )

    def remove_files(self, paths: Sequence[Path]) -> list[str]:
        """Forget paths, and what was known of films that lie nowhere (any more); returns these films."""
        with self.writing():
            names = [(os.fsencode(path),) for path in paths]
            self._connection.executemany("DELETE FROM files WHERE path = ?", names)
            self._connection.executemany("DELETE FROM failures WHERE path = ?", names)
            gone = [
                film
                for (film,) in self._connection.execute(
                    "SELECT id FROM films WHERE id NOT IN (SELECT film FROM files) AND norms IS NOT NULL"
                )
            ]
            for table, key in (("films", "id"), ("thumbnails", "film"), ("cues", "film")):
                self._connection.executemany(f"DELETE FROM {table} WHERE {key} = ?", [(film,) for film in gone])
            self._connection.executemany("DELETE FROM facts WHERE name = ?", [(HEARD + film,) for film in gone])
        return gone

    def files(self) -> dict[Path, IndexedFile]:
        """Return all files that the index has, by path."""
        rows = self._read("SELECT path, size, modified_ns, film, subtitles, added_s FROM files ORDER BY path")
        return {(path := Path(os.fsdecode(row[0]))): IndexedFile(path, *row[1:]) for row in rows}

    def failures(self) -> list[BrokenFile]:
        """Return the files that could not be read."""
        rows = self._read("SELECT path, size, modified_ns, reason, message FROM failures ORDER BY path")
        return [BrokenFile(Path(os.fsdecode(row[0])), *row[1:]) for row in rows]

    def films(self) -> dict[str, Film]:
        """Return every film whose vectors are stored, by id."""
        rows = self._read("SELECT id, size, duration_s, width, height FROM films WHERE norms IS NOT NULL ORDER BY id")
        return {row[0]: Film(*row) for row in rows}

    def films_without_norms(self) -> list[str]:
        """Return films of which not yet all is stored."""
        return [film for (film,) in self._read("SELECT id FROM films WHERE norms IS NULL ORDER BY id")]

    def has_film(self, film: str) -> bool:
        """Tell whether a film was decoded, searched or not."""
        return bool(self._read("SELECT 1 FROM films WHERE id = ?", (film,)))

    def known_films(self) -> set[str]:
        """Return every film that was decoded, searched or not."""
        return {film for (film,) in self._read("SELECT id FROM films")}

    def norms(self) -> dict[str, np.ndarray]:
        """Return the lengths (rows,) of each film's vectors."""
        rows = self._read("SELECT id, norms FROM films WHERE norms IS NOT NULL ORDER BY id")
        return {film: np.frombuffer(values, "<f4") for film, values in rows}

    def thumbnail(self, film: str, second: float) -> bytes | None:
        """Return the JPEG nearest to a second of a film, None when there is none."""
        rows = self._read(
            "SELECT picture FROM thumbnails WHERE film = ? ORDER BY abs(second - ?) LIMIT 1", (film, second)
        )
        return next((picture for (picture,) in rows), None)

    def cues(self, film: str) -> list[Cue]:
        """Return what is spoken in a film, in order of time."""
        rows = self._read("SELECT start_s, end_s, text, source FROM cues WHERE film = ? ORDER BY start_s", (film,))
        return [Cue(*row) for row in rows]

    def counts(self) -> dict[str, float]:
        """Return how much there is: files, films, hours, rows, thumbnails, cues, failures."""
        (row,) = self._read(
            "SELECT (SELECT count(*) FROM files), count(*), coalesce(sum(duration_s), 0) / 3600,"
            " coalesce(sum(length(norms)), 0) / 4, (SELECT count(*) FROM thumbnails), (SELECT count(*) FROM cues),"
            " (SELECT count(*) FROM failures) FROM films WHERE norms IS NOT NULL"
        )
        return dict(zip(("files", "films", "hours", "rows", "thumbnails", "cues", "failures"), row, strict=True))

    def state(self) -> int:
        """Return a number that changes when anybody else has written."""
        ((others,),) = self._read("PRAGMA data_version")
        return int(others) * 2**32 + self._connection.total_changes

    def fact(self, name: str) -> bytes | None:
        """Return a stored fact of the whole index."""
        return next((value for (value,) in self._read("SELECT value FROM facts WHERE name = ?", (name,))), None)

    def set_fact(self, name: str, value: bytes) -> None:
        """Store a fact of the whole index."""
        with self.writing():
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Ask for rows; PipelineError when the file is damaged."""
        return self._read(statement, values)

    def _read(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with _readable(self.path):
            return self._connection.execute(statement, values).fetchall()

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _refuse_other_version(self) -> None:
        with _readable(self.path):
            version = self._version()
        if version != VERSION:
            raise PipelineError(
                f"{self.path} has version {version}, this program reads version {VERSION}; update it, or make "
                "another index by --index"
            )


def _connect(path: Path, address: str) -> sqlite3.Connection:
    with _readable(path):
        return sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise PipelineError(f"{path} cannot be used: {error}") from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise PipelineError(
            f"{path} is damaged ({error}); delete it and run index again: films whose vectors are there are not "
            "encoded again"
        ) from error


def _statements(script: str) -> Iterator[str]:
    """Cut a script into statements, those of triggers whole."""
    collected = ""
    for line in script.splitlines(keepends=True):
        collected += line
        if sqlite3.complete_statement(collected):
            yield collected
            collected = ""


def _printable(text: str) -> str:
    """Return text that SQLite stores: bytes of file names that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
