"""Fingerprints: the same specification gives the same 64 hex digits on every machine, another one gives
others.

A specification (`spec`) is a JSON object with everything that changes a number of the features: weights and
their sha256, preprocessing, sampling, dtype. What only changes the speed or the place (device, batch size,
workers, paths) must stay out of it and is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mesm.datasets.errors import FeatureError

FORBIDDEN_KEYS = frozenset({"device", "batch_size", "workers", "num_workers", "path", "paths", "cache"})
NAME_DIGITS = 12
"""Hex digits of the fingerprint that a folder's name shows."""
TEXT_KEY_DIGITS = 32
_LARGEST_EXACT_INTEGER = 2.0**53


def fingerprint(spec: Mapping[str, Any]) -> str:
    """Return the sha256 of a specification's `canonical_json` as 64 hex digits."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def canonical_json(spec: Mapping[str, Any]) -> str:
    """Write a specification in its one canonical form: keys sorted, no white space, shortest exact numbers.

    A float without fraction is written as an integer, so that `clip_len_s: 1` and `clip_len_s: 1.0` are one
    (as in RFC 8785). Raises FeatureError on a value that JSON cannot hold, on a key that may not be in a
    specification and on an absolute path.
    """
    return json.dumps(plain_spec(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def plain_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a specification in plain JSON types (dict, list, str, int, ...), or raise FeatureError."""
    return _plain_mapping(spec, "spec")


def spec_differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """List the differences of two specifications, a line each: `sampling.mode: found ..., expected ...`."""
    flat_found = dict(_flatten(plain_spec(found)))
    flat_expected = dict(_flatten(plain_spec(expected)))
    lines = []
    for key in sorted(flat_found.keys() | flat_expected.keys()):
        left, right = flat_found.get(key, "nothing"), flat_expected.get(key, "nothing")
        if left != right:
            lines.append(f"{key}: found {left}, expected {right}")
    return lines


def text_key(text: str) -> str:
    """Return the key of a text: the first 32 hex digits of the sha256 of its NFC form."""
    normal = unicodedata.normalize("NFC", text)
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).hexdigest()[:TEXT_KEY_DIGITS]


def _plain(value: Any, place: str) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return _plain_float(value, place)
    if isinstance(value, str):
        if os.path.isabs(value):
            raise FeatureError(f"{place} is the path {value}: a specification holds hashes of files, not places")
        return value
    if isinstance(value, Mapping):
        return _plain_mapping(value, place)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    raise FeatureError(f"{place} is a {type(value).__name__}: a specification holds only what JSON can hold")


def _plain_float(value: float, place: str) -> float | int:
    if value != value or value in (float("inf"), float("-inf")):
        raise FeatureError(f"{place} is {value}: a specification holds only finite numbers")
    return int(value) if value.is_integer() and abs(value) <= _LARGEST_EXACT_INTEGER else value


def _plain_mapping(mapping: Mapping[str, Any], place: str) -> dict[str, Any]:
    for key in mapping:
        if not isinstance(key, str):
            raise FeatureError(f"{place} has the key {key!r}: keys of a specification are strings")
        if key in FORBIDDEN_KEYS:
            raise FeatureError(f"{place}.{key} does not change a number, so it may not be in a specification")
    return {key: _plain(value, f"{place}.{key}") for key, value in mapping.items()}


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, json.dumps(value, ensure_ascii=False)
