"""The vectors of all films of an index as one matrix of rows, mapped from its shards and scored exactly.

One product of the matrix with a vector is all that a search reads. torch multiplies float16 rows as fast as memory
gives them, so nothing approximate is needed, and every row's score is known, from which any span's follows.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.shards.headers import ArrayPlace, ShardHeader
from mesm.pipeline.index.adaptive import LASTS

BLOCK_ROWS = 65536
"""Rows that are multiplied at a time, while the next ones are read from the disk."""


@dataclass(frozen=True)
class _Run:
    """Films whose rows lie one after the other in one shard."""

    mapped: mmap.mmap
    place: ArrayPlace
    """Of all their rows together."""
    first: int
    """Number of their first row among those that are stored."""


class RowMatrix:
    """All rows (N, D) of the films of an index, film by film.

    Rows that were left out as alike (`mesm.pipeline.index.adaptive`) are repeated: every film has a row for each time.
    """

    def __init__(self, folder: FeatureFolder, norms: Mapping[str, np.ndarray]) -> None:
        """Map the vectors of films of a folder; norms: the lengths (stored,) of each film's stored rows."""
        self.films: list[str] = []
        self._runs: list[_Run] = []
        starts, lengths, lasts = [0], [], []
        for header, films in _films_by_shard(folder, norms):
            mapped = _map(header)
            for run in _adjacent(header, films):
                place = header.entries[run[0]].arrays["features"]
                rows = [header.entries[film].record.rows for film in run]
                whole = ArrayPlace(place.dtype, (sum(rows), *place.shape[1:]), place.start)
                self._runs.append(_Run(mapped, whole, starts[-1]))
                self.films += run
                starts += (starts[-1] + np.cumsum(rows)).tolist()
                lengths += [norms[film] for film in run]
                lasts += [_lasts(mapped, header, film) for film in run]
        self._stored: np.ndarray | None = None
        """(N,): number of the stored row that stands for each row, where some were left out."""
        if any(one is not None for one in lasts):
            of_row = [np.ones(len(n), np.uint8) if one is None else one for one, n in zip(lasts, lengths, strict=True)]
            self._stored = np.repeat(np.arange(starts[-1], dtype=np.int32), np.concatenate(of_row))
            starts = np.cumsum([0, *(int(one.sum()) for one in of_row)]).tolist()
        self.starts = np.array(starts)
        """(films + 1,): the first row of each film, and the number of rows."""
        self._lengths = np.maximum(np.concatenate(lengths) if lengths else np.zeros(0, np.float32), 1e-12)
        self._of_film = {film: number for number, film in enumerate(self.films)}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def number(self, film: str) -> int | None:
        """Return the number of a film, None when it has no rows here."""
        return self._of_film.get(film)

    def scores(self, wanted: np.ndarray) -> np.ndarray:
        """Return the dot product of every normalised row with a vector (D,): (N,) float32."""
        scores = np.empty(len(self._lengths), np.float32)
        for run in self._runs:
            vector = torch.from_numpy(wanted.astype(run.place.dtype))
            rows = torch.from_numpy(_array(run))
            for start in range(0, len(rows), BLOCK_ROWS):
                _read_ahead(run, start + BLOCK_ROWS)
                part = torch.mv(rows[start : start + BLOCK_ROWS], vector).float().numpy()
                scores[run.first + start : run.first + start + len(part)] = part
        scores /= self._lengths
        return scores if self._stored is None else scores[self._stored]

    def rows(self, first: int, end: int) -> np.ndarray:
        """Return some rows of one film, normalised: (end - first, D) float32."""
        if self._stored is None:
            return self._stored_rows(first, end)
        stored = self._stored[first:end]
        return self._stored_rows(int(stored[0]), int(stored[-1]) + 1)[stored - stored[0]]

    def _stored_rows(self, first: int, end: int) -> np.ndarray:
        number = np.searchsorted([run.first for run in self._runs], first, side="right") - 1
        run = self._runs[int(number)]
        rows = _array(run)[first - run.first : end - run.first].astype(np.float32)
        return rows / self._lengths[first:end, None]

    def mean(self) -> np.ndarray:
        """Return the mean of all normalised rows, (D,) float64."""
        total: np.ndarray | float = 0.0
        counts = None if self._stored is None else np.bincount(self._stored, minlength=len(self._lengths))
        for run in self._runs:
            rows = _array(run)
            for start in range(0, len(rows), BLOCK_ROWS // 16):
                first, end = run.first + start, run.first + min(start + BLOCK_ROWS // 16, len(rows))
                some = self._stored_rows(first, end)
                some = some if counts is None else some * counts[first:end, None]
                total = total + some.sum(0, dtype=np.float64)
        return np.asarray(total) / max(len(self), 1)


def row_norms(rows: np.ndarray) -> np.ndarray:
    """Return the lengths (rows,) float32 of vectors (rows, D)."""
    return np.linalg.norm(rows.astype(np.float32), axis=1)


def _films_by_shard(folder: FeatureFolder, norms: Mapping[str, np.ndarray]) -> Iterator[tuple[ShardHeader, list[str]]]:
    """Yield each shard with the films whose rows there count, in the order of their places."""
    newest = {film: header.path for header in folder.shards() for film in header.entries}
    for header in folder.shards():
        films = [film for film in header.entries if film in norms and newest[film] == header.path]
        if films:
            yield header, sorted(films, key=lambda film: header.entries[film].arrays["features"].start)


def _adjacent(header: ShardHeader, films: list[str]) -> Iterator[list[str]]:
    """Divide films into those that lie side by side."""
    places = [header.entries[film].arrays["features"] for film in films]
    breaks = [
        number
        for number, (one, other) in enumerate(itertools.pairwise(places), start=1)
        if one.start + one.size != other.start or one.dtype != other.dtype
    ]
    for start, end in itertools.pairwise([0, *breaks, len(films)]):
        yield films[start:end]


def _map(header: ShardHeader) -> mmap.mmap:
    # A private mapping is one that torch takes without a complaint; nobody writes into it.
    with open(header.path, "rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)


def _lasts(mapped: mmap.mmap, header: ShardHeader, film: str) -> np.ndarray | None:
    """Return how many rows each stored one of a film stands for (stored,); None where all are stored."""
    place = header.entries[film].arrays.get(LASTS)
    return None if place is None else np.ndarray(place.shape, place.dtype, buffer=mapped, offset=place.start)


def _array(run: _Run) -> np.ndarray:
    return np.ndarray(run.place.shape, run.place.dtype, buffer=run.mapped, offset=run.place.start)


def _read_ahead(run: _Run, row: int) -> None:
    """Have the disk read the block at a row while the one before is multiplied."""
    row_bytes = run.place.dtype.itemsize * run.place.shape[1]
    begin = (run.place.start + row * row_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if row < run.place.shape[0] and hasattr(mmap, "MADV_WILLNEED"):
        run.mapped.madvise(mmap.MADV_WILLNEED, begin, min(BLOCK_ROWS * row_bytes, len(run.mapped) - begin))
