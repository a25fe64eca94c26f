"""Looking after a folder of shards: reading everything again (`verify`) and merging small shards (`compact`).

Both publish new shards before they touch an old one, under a lock that no writer shares, so that a reader
finds every record at every moment, and after a crash at every moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.headers import DAMAGED_SUFFIX, Entry, payload_sha256, read_arrays, shard_name, shard_number
from mesm.datasets.shards.publishing import FolderLock, remove_stale_temporaries, sync_folder, write_errors

if TYPE_CHECKING:
    from mesm.datasets.shards.index import ShardIndex


@dataclass(frozen=True)
class Problem:
    """Something that `verify` found: in a whole shard (no key) or in one record of it."""

    shard: Path
    key: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.shard.name}{'' if self.key is None else f', {self.key}'}: {self.reason}"


def verify(index: ShardIndex) -> list[Problem]:
    """Read every shard and compare with the hashes in its header; return what does not agree."""
    return [problem for number in sorted(index.listed_numbers()) for problem in _verify_shard(index, number)]


def set_aside(index: ShardIndex, problems: Iterable[Problem]) -> None:
    """Rename shards with problems to `<name>.damaged`, after their sound records were published again.

    A record that is lost by this is missing, or shows its earlier version where there was one, until the next
    extraction. Raises FeatureError while somebody writes to the folder.
    """
    bad: dict[Path, set[str | None]] = {}
    for problem in problems:
        bad.setdefault(problem.shard, set()).add(problem.key)
    unreadable = [path for path, keys in bad.items() if None in keys]
    with FolderLock(index.path, exclusive=True), write_errors(index.path):
        for path in unreadable:
            _rename_damaged(path)
        index.refresh()
        for path in sorted(bad.keys() - set(unreadable)):
            _republish(index, [key for key in _winners(index, [shard_number(path)]) if key not in bad[path]])
            write_point("verify:rescued")
            _rename_damaged(path)
            write_point("verify:set-aside")
        sync_folder(index.path)
        index.refresh()


def compact(index: ShardIndex, target_bytes: int) -> int:
    """Merge small shards up to about `target_bytes`, drop superseded ones; return by how many fewer."""
    with FolderLock(index.path, exclusive=True):
        remove_stale_temporaries(index.path)
        index.refresh()
        before = len(index.headers())
        _remove_superseded(index)
        for group in _mergeable(index, target_bytes):
            _republish(index, _winners(index, group))
            write_point("compact:merged")
            _remove(index, group)
        return before - len(index.headers())


def _verify_shard(index: ShardIndex, number: int) -> list[Problem]:
    path = index.path / shard_name(number)
    try:
        entries = index.read_header(number).entries
        return [Problem(path, key, reason) for key, entry in entries.items() if (reason := _wrong(path, entry))]
    except FileNotFoundError:
        return []  # compacted while this was reading
    except FeatureError as error:
        return [Problem(path, None, str(error))]


def _wrong(path: Path, entry: Entry) -> str | None:
    try:
        found = payload_sha256(read_arrays(path, entry))
    except FileNotFoundError:
        raise
    except OSError as error:
        return f"its numbers cannot be read: {error.strerror}"
    stated = entry.record.payload_sha256
    if found == stated:
        return None
    return f"its numbers have the sha256 {found[:12]}, the header says {stated[:12]}"


def _rename_damaged(path: Path) -> None:
    suffixes = itertools.chain([""], itertools.count(1))
    names = (path.with_name(f"{path.name}{DAMAGED_SUFFIX}{suffix}") for suffix in suffixes)
    path.rename(next(name for name in names if not name.exists()))


def _winners(index: ShardIndex, numbers: Collection[int]) -> list[str]:
    """Keys whose record that counts is in one of these shards."""
    return sorted({key for number in numbers for key in index.entries(number) if index.number(key) == number})


def _mergeable(index: ShardIndex, target_bytes: int) -> list[list[int]]:
    """Group shards smaller than half the target, in order, up to the target; a shard alone makes no group."""
    groups: list[list[int]] = [[]]
    room = target_bytes
    for number, header in index.headers().items():
        if header.size >= target_bytes / 2:
            continue
        if header.size > room:
            groups.append([])
            room = target_bytes
        groups[-1].append(number)
        room -= header.size
    return [group for group in groups if len(group) > 1]


def _republish(index: ShardIndex, keys: Collection[str]) -> None:
    if keys:
        index.publish((index.entry(key).record, index.read(key)) for key in keys)


def _remove_superseded(index: ShardIndex) -> None:
    counting: Mapping[int, bool] = {
        number: any(index.number(key) == number for key in index.entries(number)) for number in index.headers()
    }
    _remove(index, [number for number, counts in counting.items() if not counts])


def _remove(index: ShardIndex, numbers: Collection[int]) -> None:
    if not numbers:
        return
    with write_errors(index.path):
        for number in numbers:
            (index.path / shard_name(number)).unlink(missing_ok=True)
            write_point("compact:removed")
        sync_folder(index.path)
    write_point("compact:synced")
    index.refresh()
