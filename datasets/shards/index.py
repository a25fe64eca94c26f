"""The index of a folder of shards: which record is in which file, as the headers say.

A shard is never changed once it has its name, so a header is read once. Shards may appear (a writer) and
vanish (a compaction) while this index is in use; what has vanished is looked for again.
"""

from __future__ import annotations

import itertools
import mmap
import weakref
from collections.abc import Iterable, KeysView, Mapping
from pathlib import Path

import numpy as np

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.fingerprints import NAME_DIGITS
from mesm.datasets.shards.headers import (
    ROW_ARRAYS,
    SHARD_NAME,
    Entry,
    Record,
    ShardHeader,
    damaged,
    read_arrays,
    read_header,
    shard_bytes,
    shard_name,
    shard_number,
)
from mesm.datasets.shards.publishing import publish_new

_MOST_MAPS = 256
"""Shards that may be mapped at a time: each costs a file descriptor as long as one of its arrays lives."""
_ATTEMPTS = 100


class ShardIndex:
    """The shards of one folder and the records in them."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Stand for the shards of a folder; nothing is read before it is asked for."""
        self.path = path
        self._fingerprint = fingerprint
        self._headers: dict[int, ShardHeader] = {}
        self._numbers: dict[str, int] | None = None
        self._ordered: dict[str, int] | None = None
        self._next_number = 0
        self._maps: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()

    def refresh(self) -> None:
        """Look again which shards there are; only headers not yet known are read."""
        for _ in range(_ATTEMPTS):
            listed = self.listed_numbers()
            try:
                fresh = {number: self.read_header(number) for number in listed - self._headers.keys()}
            except FileNotFoundError:
                continue  # compacted away since it was listed
            self._headers.update(fresh)
            if listed == self.listed_numbers():
                self._headers = {number: self._headers[number] for number in sorted(listed)}
                self._numbers = {key: number for number in self._headers for key in self.entries(number)}
                self._ordered = None
                return
        raise FeatureError(f"{self.path} changes faster than it can be listed; try again when its writers rest")

    def keys(self) -> KeysView[str]:
        """Return the keys of all records, sorted."""
        resolved = self._resolved()
        if self._ordered is None:
            self._ordered = dict(sorted(resolved.items()))
        return self._ordered.keys()

    def number(self, key: str) -> int | None:
        """Return the number of the shard whose record of this key counts, None when there is none."""
        return self._resolved().get(key)

    def headers(self) -> dict[int, ShardHeader]:
        """Return the headers of all shards by number, in order."""
        self._resolved()
        return self._headers

    def entries(self, number: int) -> dict[str, Entry]:
        """Return all entries of one shard, superseded ones among them."""
        return self._headers[number].entries

    def entry(self, key: str) -> Entry:
        """Return the entry that counts of a key; FeatureError when there is none."""
        number = self._resolved().get(key)
        if number is None:
            raise FeatureError(f"{self.path} holds no features of {key!r}; extract or import them first")
        return self._headers[number].entries[key]

    def read(self, key: str) -> dict[str, np.ndarray]:
        """Return the arrays of a record, read-only; FeatureError if there is none or its shard is damaged."""
        for _ in range(_ATTEMPTS):
            entry = self.entry(key)
            # The header's hash is of the records alone: an array's name may be damaged.
            if not any(entry.arrays[n].shape[:1] == (entry.record.rows,) for n in ROW_ARRAYS if n in entry.arrays):
                names = ", ".join(entry.arrays)
                raise damaged(self._headers[self._resolved()[key]].path, f"{key!r} has no rows, but {names!r}")
            try:
                return self._arrays(self._resolved()[key], entry)
            except FileNotFoundError:
                self.refresh()  # compacted since its header was read
            except OSError as error:
                raise FeatureError(f"{self.path}: {key!r} cannot be read: {error.strerror}") from error
        raise FeatureError(f"{self.path}: the shard of {key!r} vanishes again and again while it is read")

    def publish(self, records: Iterable[tuple[Record, Mapping[str, np.ndarray]]]) -> Path:
        """Write records as one new shard, which gets a higher number than any that is known."""
        self._resolved()
        content = shard_bytes(self._fingerprint, records)
        names = (shard_name(number) for number in itertools.count(self._next_number))
        path = publish_new(self.path, names, content, "shard")
        assert path is not None  # the names never end
        self._append(path)
        return path

    def listed_numbers(self) -> set[int]:
        """List the folder and return the numbers of its shards; FeatureError when it cannot be listed."""
        try:
            names = [path.name for path in self.path.iterdir()]
        except OSError as error:
            raise FeatureError(f"{self.path} cannot be listed: {error.strerror}") from error
        matches = [match for match in map(SHARD_NAME.fullmatch, names) if match]
        # The number of a shard that was set aside is not used again: somebody may still have it mapped.
        taken = max((int(match["number"]) for match in matches), default=-1)
        self._next_number = max(self._next_number, taken + 1)
        return {int(match["number"]) for match in matches if match["aside"] is None}

    def read_header(self, number: int) -> ShardHeader:
        """Read a header from its file; FileNotFoundError, or FeatureError if damaged or of other features."""
        header = read_header(self.path / shard_name(number))
        if header.fingerprint != self._fingerprint:
            raise FeatureError(
                f"{header.path} belongs to features of fingerprint {header.fingerprint[:NAME_DIGITS]}, this "
                f"folder is of {self._fingerprint[:NAME_DIGITS]}; move it to the folder where it came from"
            )
        return header

    def _append(self, path: Path) -> None:
        number = shard_number(path)
        self._headers[number] = self.read_header(number)
        self._next_number = number + 1
        numbers = self._resolved()
        for key in self.entries(number):
            numbers[key] = number
        self._ordered = None

    def _resolved(self) -> dict[str, int]:
        if self._numbers is None:
            self.refresh()
        assert self._numbers is not None
        return self._numbers

    def _arrays(self, number: int, entry: Entry) -> dict[str, np.ndarray]:
        shard = self._headers[number]
        mapped = self._maps.get(number)
        if mapped is None:
            if len(self._maps) >= _MOST_MAPS:
                return read_arrays(shard.path, entry)
            mapped = self._maps[number] = _map(shard)
        return {
            name: np.ndarray(place.shape, place.dtype, buffer=mapped, offset=place.start)
            for name, place in entry.arrays.items()
        }


def _map(shard: ShardHeader) -> mmap.mmap:
    with open(shard.path, "rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if len(mapped) != shard.size:
        raise damaged(shard.path, f"{len(mapped)} bytes, {shard.size} when its header was read")
    return mapped
