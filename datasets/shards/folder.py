"""Feature shards: a folder of immutable files that survives kill -9, a full disk and concurrent writers.

`<root>/<name>-<12 hex>/` holds `fingerprint.json` (the specification of the features) and
`shard-000000.safetensors`, `shard-000001.safetensors`, ... The headers of the shards are the index, there is
no other. A shard is never changed once it has its name; a record in a shard of a higher number supersedes one
of the same key in a lower one.

    folder = FeatureFolder.create_or_open(Path("features"), "clip", encoder.spec)
    with folder.writer() as writer:
        writer.add("3MSZA", {"features": rows}, clip_len_s=1.0, duration_s=30.3)
        writer.publish()
    rows = folder.read("3MSZA")["features"]
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, KeysView, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mesm.datasets.errors import FeatureError
from mesm.datasets.plain_text import read_json
from mesm.datasets.shards import maintenance as shard_maintenance
from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.fingerprints import NAME_DIGITS, fingerprint, plain_spec, spec_differences, text_key
from mesm.datasets.shards.headers import ROW_ARRAYS, Record, ShardHeader, check_key, payload_sha256, plain_array
from mesm.datasets.shards.index import ShardIndex
from mesm.datasets.shards.maintenance import Problem
from mesm.datasets.shards.publishing import FolderLock, publish_new, remove_stale_temporaries, sync_folder, write_errors

__all__ = [
    "FeatureFolder",
    "Problem",
    "Record",
    "ShardWriter",
    "fingerprint",
    "row_count_problem",
    "text_key",
]

FINGERPRINT_FILE = "fingerprint.json"
FOLDER_FORMAT = 1
COMPACT_BYTES = 128 * 1024**2
"""Size of the shards that `compact` aims at; it needs about twice as much memory."""
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def row_count_problem(
    rows: int, clip_len_s: float | None, duration_s: float | None, slack_s: float = 1e-6
) -> str | None:
    """Say what is wrong when rows times clip length is off the duration by more than a clip, else None.

    `slack_s` is what the duration itself may be wrong by (seconds).
    """
    if clip_len_s is None or duration_s is None:
        return None
    if abs(rows * clip_len_s - duration_s) <= clip_len_s + slack_s:
        return None
    return (
        f"{rows} rows of {clip_len_s:g} s are {rows * clip_len_s:.2f} s, the video lasts {duration_s:.2f} s "
        f"({duration_s / max(rows, 1):.4g} s a row)"
    )


class FeatureFolder:
    """The features of one encoder with one specification."""

    def __init__(self, path: Path, name: str, spec: Mapping[str, Any]) -> None:
        """Stand for a folder whose fingerprint.json has been read; use `open` or `create_or_open`."""
        self.path = path
        self.name = name
        self.spec = dict(spec)
        self.fingerprint = fingerprint(spec)
        self._index = ShardIndex(path, self.fingerprint)

    def __repr__(self) -> str:
        return f"FeatureFolder({str(self.path)!r})"

    @classmethod
    def create_or_open(cls, root: Path, name: str, spec: Mapping[str, Any]) -> FeatureFolder:
        """Open the folder of these features below `root`, creating it when it is not there.

        Raises FeatureError when the folder says another specification than `spec`, with the difference, and
        when it cannot be written.
        """
        path = folder_path(root, name, spec)
        with write_errors(path):
            if not cls.is_one(path):
                path.mkdir(parents=True, exist_ok=True)
                write_point("folder:created")
                sync_folder(path.parent)
                write_point("folder:synced")
                content = {"format": FOLDER_FORMAT, "name": name, "fingerprint": fingerprint(spec)}
                text = json.dumps({**content, "spec": plain_spec(spec)}, indent=1, sort_keys=True, ensure_ascii=False)
                publish_new(path, [FINGERPRINT_FILE], f"{text}\n".encode(), "fingerprint")
        return cls.open(path, spec)

    @classmethod
    def open(cls, path: Path, spec: Mapping[str, Any] | None = None) -> FeatureFolder:
        """Open a folder of features that exists.

        Raises FeatureError when it is none, when its fingerprint.json is damaged, and, if `spec` is given,
        when the features were made with another specification, with the difference.
        """
        file = path / FINGERPRINT_FILE
        try:
            content = read_json(file)
            name, found, stated = content["name"], content["spec"], content["fingerprint"]
            if not (isinstance(found, dict) and isinstance(name, str) and isinstance(stated, str)):
                raise TypeError("expected a name, a spec and a fingerprint")
        except OSError as error:
            raise FeatureError(f"{path} is no folder of features: {FINGERPRINT_FILE}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise FeatureError(f"{file} is damaged ({error}); delete it and extract again, the shards stay") from error
        if content.get("format") != FOLDER_FORMAT:
            raise FeatureError(f"{file} has format {content.get('format')}, this version reads {FOLDER_FORMAT}")
        if fingerprint(found) != stated:
            raise FeatureError(
                f"{file} was edited: its specification has another fingerprint than it states; "
                "delete it and extract again, the shards stay"
            )
        if spec is not None and fingerprint(spec) != stated:
            raise FeatureError(_other_spec(path, found, spec))
        return cls(path, name, found)

    @staticmethod
    def is_one(path: Path) -> bool:
        """Say whether a folder is one of features."""
        return (path / FINGERPRINT_FILE).exists()

    @classmethod
    def all_in(cls, root: Path) -> list[FeatureFolder]:
        """Open every folder of features directly below `root`, by name; other folders are passed over."""
        return [cls.open(file.parent) for file in sorted(root.glob(f"*/{FINGERPRINT_FILE}"))]

    def keys(self) -> KeysView[str]:
        """Return the keys of all records, sorted."""
        return self._index.keys()

    def __contains__(self, key: str) -> bool:
        return self._index.number(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.keys())

    def __len__(self) -> int:
        return len(self._index.keys())

    def record(self, key: str) -> Record:
        """Return what is known of one record; FeatureError when there is none."""
        return self._index.entry(key).record

    def read(self, key: str) -> dict[str, np.ndarray]:
        """Return the arrays of one record by name, read-only and mapped from the shard.

        Video features hold `features` (rows, dim); text features hold `tokens` (words, dim), `token_ids`
        (words,) and, when the encoder has one, `pooled` (dim,). Raises FeatureError when there is no such
        record or its shard is damaged.
        """
        return self._index.read(key)

    def array_shapes(self, key: str) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of a record, from the header alone."""
        return {name: place.shape for name, place in self._index.entry(key).arrays.items()}

    def shards(self) -> list[ShardHeader]:
        """Return the headers of all shards, by number."""
        return list(self._index.headers().values())

    def refresh(self) -> None:
        """Look again which shards there are, when another process writes to the folder."""
        self._index.refresh()

    def writer(self) -> ShardWriter:
        """Begin to write; several processes may at a time. FeatureError when the folder cannot be written."""
        return ShardWriter(self)

    def verify(self, *, remove_damaged: bool = False) -> list[Problem]:
        """Read everything again and compare with the hashes; return what does not agree.

        With `remove_damaged` each shard with a problem is renamed to `<name>.damaged`, after its sound
        records were published in a new shard, so that the next extraction makes only the damaged records
        anew.
        """
        problems = shard_maintenance.verify(self._index)
        if remove_damaged and problems:
            shard_maintenance.set_aside(self._index, problems)
        return problems

    def compact(self, target_bytes: int = COMPACT_BYTES) -> int:
        """Merge small shards into ones of at most about `target_bytes`; return by how many there are fewer.

        Records that later ones superseded are dropped. New shards are published before old ones are removed:
        a reader finds every record at any moment, and after a crash at any moment. Raises FeatureError while
        somebody writes to the folder.
        """
        return shard_maintenance.compact(self._index, target_bytes)


class ShardWriter:
    """Collects records and publishes them, some at a time, as shards.

    A context manager, which publishes what is left at its end; an exception gives up what is left.
    """

    def __init__(self, folder: FeatureFolder) -> None:
        """Join the writers of a folder and remove what dead ones left behind; use `FeatureFolder.writer`."""
        self._index = folder._index
        self._pending: dict[str, tuple[Record, dict[str, np.ndarray]]] = {}
        self._lock = FolderLock(folder.path, exclusive=False)
        remove_stale_temporaries(folder.path)
        self._index.refresh()

    def add(
        self,
        key: str,
        arrays: Mapping[str, np.ndarray],
        *,
        clip_len_s: float | None = None,
        duration_s: float | None = None,
        fps: Fraction | None = None,
        source_size: int | None = None,
        source_hash: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one record, copied, until `publish`; it will supersede an earlier one of the same key.

        `arrays` holds `features` (rows, dim) or `tokens` (words, dim), and others beside it. Raises
        FeatureError for a key or array that cannot be stored.
        """
        check_key(key)
        plain = _plain_arrays(key, arrays)
        rows = next(len(plain[name]) for name in ROW_ARRAYS if name in plain)
        record = Record(
            key,
            rows,
            clip_len_s=_seconds(key, clip_len_s),
            duration_s=_seconds(key, duration_s),
            fps=fps,
            source_size=source_size,
            source_hash=source_hash,
            payload_sha256=payload_sha256(plain),
            meta=_plain_meta(key, meta or {}),
        )
        self._pending[key] = (record, plain)

    @property
    def pending(self) -> int:
        """Number of records that were added since the last `publish`."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """Bytes of the arrays of these records."""
        return sum(array.nbytes for _, arrays in self._pending.values() for array in arrays.values())

    def publish(self) -> Path | None:
        """Write what was added since the last time as one shard; return its path, or None for nothing.

        Raises FeatureError when the disk is full or the folder cannot be written; the records are kept then,
        so that one may try again.
        """
        if not self._pending:
            return None
        path = self._index.publish(self._pending.values())
        self._pending.clear()
        return path

    def close(self) -> None:
        """Leave the folder's writers; what was not published is given up."""
        self._pending.clear()
        self._lock.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.publish()
        finally:
            self.close()


def folder_path(root: Path, name: str, spec: Mapping[str, Any]) -> Path:
    """Return where the features of an encoder with a specification lie: `<root>/<name>-<12 hex>`."""
    if not _FOLDER_NAME.fullmatch(name):
        raise FeatureError(f"{name!r} cannot name a folder of features: letters, digits and . _ + - can")
    return root / f"{name}-{fingerprint(spec)[:NAME_DIGITS]}"


def _plain_arrays(key: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    rows = [name for name in ROW_ARRAYS if name in arrays]
    if len(rows) != 1 or arrays[rows[0]].ndim != 2:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
        raise FeatureError(f"{key}: expected one array (rows, dim) called {' or '.join(ROW_ARRAYS)}, found {found}")
    for name in arrays:
        check_key(name)
        if "/" in name:
            raise FeatureError(f"{key}: an array cannot be called {name!r}: it holds a slash")
    return {name: plain_array(array) for name, array in arrays.items()}


def _seconds(key: str, value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise FeatureError(f"{key}: a clip length or duration of {value} s cannot be; expected 0 or more")
    return None if value is None else float(value)


def _plain_meta(key: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what reading the shard will give back, so that both are equal."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FeatureError(f"{key}: meta cannot be stored as JSON: {error}") from error
    return plain


def _other_spec(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    lines = "\n".join(f"  {line}" for line in spec_differences(found, expected))
    return f"{path} holds features that were made otherwise:\n{lines}"
