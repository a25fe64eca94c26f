"""What one shard file says about itself.

A shard is a safetensors file. The tensor of array `features` of video `abc` is called `abc/features`; the
header's metadata holds, under the one key `mesm`, a JSON object with the format version, the fingerprint of
the folder and, for each record, everything of `Record`; the sha256 of the JSON text stands before it, 64 hex
digits. Reading a header touches the first kilobytes of the file only, and checks that the header and the
file's size agree, which finds every truncation.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from mesm.datasets.errors import FeatureError
from mesm.datasets.plain_text import parse_json

SHARD_FORMAT = 1
METADATA_KEY = "mesm"
LONGEST_KEY = 251
ROW_ARRAYS = ("features", "tokens")
"""Of the arrays of a record, the one whose rows are counted."""
DAMAGED_SUFFIX = ".damaged"
SHARD_NAME = re.compile(r"shard-(?P<number>\d{6,})\.safetensors(?P<aside>\.damaged\d*)?")
"""Bytes of a key in UTF-8: with `.npz` behind it, it must still be a file name."""
_LARGEST_HEADER = 256 * 1024**2
_FIRST_READ = 64 * 1024
_SHA256_DIGITS = 64
_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


@dataclass(frozen=True)
class Record:
    """What is known of one video's or sentence's features besides the numbers."""

    key: str
    rows: int
    """Rows of `features` (clips) or of `tokens` (words)."""
    clip_len_s: float | None = None
    """Seconds that one row stands for."""
    duration_s: float | None = None
    fps: Fraction | None = None
    """Average frame rate of the source."""
    source_size: int | None = None
    """Bytes of the source file."""
    source_hash: str | None = None
    """Hash of the source file, by which a changed file is noticed."""
    payload_sha256: str = ""
    """Hash of the arrays: names, dtypes, shapes and numbers."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is worth keeping (the decoder, the sentence itself); JSON-serialisable."""


class ArrayPlace(NamedTuple):
    """Where an array lies in its shard: dtype, shape, and first byte in the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


class Entry(NamedTuple):
    """A record with the places of its arrays, by name."""

    record: Record
    arrays: dict[str, ArrayPlace]


@dataclass(frozen=True)
class ShardHeader:
    """The header of one shard file."""

    path: Path
    size: int
    """Bytes of the file."""
    fingerprint: str
    entries: dict[str, Entry]


def check_key(key: str) -> None:
    """Raise FeatureError for a key that cannot be a file's path below a folder, such as `a` or `sub/a`."""
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise FeatureError(f"the id {key!r} cannot be a key of features: it is no name, nor a path below a folder")
    if any(character == "\\" or ord(character) < 32 for character in key):
        raise FeatureError(f"the id {key!r} cannot be a key of features: it holds a backslash or a control character")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise FeatureError(f"the id {key!r} cannot be a key of features: it is not valid Unicode") from None
    if size > LONGEST_KEY:
        raise FeatureError(f"the id {key[:40]!r}... has {size} bytes; a key of features has at most {LONGEST_KEY}")


def plain_array(array: np.ndarray) -> np.ndarray:
    """Copy an array to what shards hold: little-endian, C order; FeatureError for a dtype that none has."""
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _DTYPES.values():
        raise FeatureError(f"an array of dtype {array.dtype} cannot be stored; numbers and booleans can")
    return np.array(array, dtype=dtype, order="C", copy=True)


def payload_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Hash arrays (of `plain_array`) by name, dtype, shape and content; 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def shard_bytes(fingerprint: str, records: Iterable[tuple[Record, Mapping[str, np.ndarray]]]) -> bytes:
    """Return the bytes of a shard file: the same for the same records, in whatever order they come."""
    ordered = sorted(records, key=lambda item: item[0].key)
    tensors = {f"{record.key}/{name}": arrays[name] for record, arrays in ordered for name in sorted(arrays)}
    content = {
        "format": SHARD_FORMAT,
        "fingerprint": fingerprint,
        "records": {record.key: _record_to_json(record) for record, _ in ordered},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return save(tensors, metadata={METADATA_KEY: _text_sha256(text) + text})


def read_header(path: Path) -> ShardHeader:
    """Read the header of a shard file.

    Raises FileNotFoundError when the file is not there (any more), FeatureError when it is damaged or no
    shard.
    """
    try:
        with open(path, "rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            text, data_start = _header_text(stream.fileno(), size)
        return _parse(path, text, size, data_start)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FeatureError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def damaged(path: Path, found: str) -> FeatureError:
    """Make the error for a damaged shard, which says how to get rid of it."""
    return FeatureError(
        f"{path} is damaged ({found}); `mesm-pipeline verify --remove-damaged {path.parent}` sets it aside, "
        "then extract or import again: only its records are made anew"
    )


def _header_text(descriptor: int, size: int) -> tuple[bytes, int]:
    first = os.pread(descriptor, _FIRST_READ, 0)
    if len(first) < 8:
        raise ValueError(f"a file of {size} bytes has no header")
    (length,) = struct.unpack("<Q", first[:8])
    if length > min(size - 8, _LARGEST_HEADER):
        raise ValueError(f"a header of {length} bytes is announced in a file of {size} bytes")
    text = first[8 : 8 + length]
    while len(text) < length:
        more = os.pread(descriptor, length - len(text), 8 + len(text))
        if not more:
            raise ValueError("the file ends within its header")
        text += more
    return text, 8 + length


def _parse(path: Path, text: bytes, size: int, data_start: int) -> ShardHeader:
    header = parse_json(text.decode())
    content = _checked_content(header.pop("__metadata__")[METADATA_KEY])
    if content["format"] != SHARD_FORMAT:
        raise FeatureError(
            f"{path} has the shard format {content['format']}, this version reads format {SHARD_FORMAT}; "
            "use the version of mesm-pipeline that wrote it, or extract again"
        )
    places: dict[str, dict[str, ArrayPlace]] = {}
    end = data_start
    for tensor, description in header.items():
        key, _, name = tensor.rpartition("/")
        place = _place(tensor, description, data_start)
        places.setdefault(key, {})[name] = place
        end = max(end, place.start + place.size)
    if end != size:
        raise ValueError(f"the header speaks of {end} bytes, the file has {size}")
    if places.keys() != content["records"].keys():
        raise ValueError("the header's records and its arrays are not of the same keys")
    entries = {key: Entry(_record_from_json(key, fields), places[key]) for key, fields in content["records"].items()}
    return ShardHeader(path, size, str(content["fingerprint"]), entries)


def _checked_content(text: str) -> dict[str, Any]:
    stated, text = text[:_SHA256_DIGITS], text[_SHA256_DIGITS:]
    if _text_sha256(text) != stated:
        raise ValueError("its records do not have the hash that stands before them")
    content: dict[str, Any] = parse_json(text)
    return content


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _place(tensor: str, description: Mapping[str, Any], data_start: int) -> ArrayPlace:
    begin, end = description["data_offsets"]
    place = ArrayPlace(_DTYPES[description["dtype"]], tuple(description["shape"]), data_start + begin)
    if begin < 0 or any(length < 0 for length in place.shape) or place.size != end - begin:
        raise ValueError(f"{tensor} has {end - begin} bytes, its shape {place.shape} needs {place.size}")
    return place


def _record_to_json(record: Record) -> dict[str, Any]:
    return {
        "rows": record.rows,
        "clip_len_s": record.clip_len_s,
        "duration_s": record.duration_s,
        "fps": None if record.fps is None else str(record.fps),
        "source_size": record.source_size,
        "source_hash": record.source_hash,
        "payload_sha256": record.payload_sha256,
        "meta": dict(record.meta),
    }


def _record_from_json(key: str, fields: Mapping[str, Any]) -> Record:
    check_key(key)
    fps = fields["fps"]
    return Record(
        key=key,
        rows=int(fields["rows"]),
        clip_len_s=fields["clip_len_s"],
        duration_s=fields["duration_s"],
        fps=None if fps is None else Fraction(fps),
        source_size=fields["source_size"],
        source_hash=fields["source_hash"],
        payload_sha256=str(fields["payload_sha256"]),
        meta=dict(fields["meta"]),
    )


def read_arrays(path: Path, entry: Entry) -> dict[str, np.ndarray]:
    """Read the arrays of one record into memory; OSError when the file cannot be read."""
    arrays = {}
    with open(path, "rb", buffering=0) as stream:
        for name, place in entry.arrays.items():
            stream.seek(place.start)
            flat = np.fromfile(stream, place.dtype, count=place.size // place.dtype.itemsize)
            arrays[name] = flat.reshape(place.shape)
            arrays[name].flags.writeable = False
    return arrays


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}.safetensors"


def shard_number(path: Path) -> int:
    """Return the number in a shard's file name."""
    match = SHARD_NAME.fullmatch(path.name)
    assert match is not None
    return int(match["number"])
