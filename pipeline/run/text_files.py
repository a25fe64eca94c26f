"""Text files that a reader sees complete or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mesm.datasets.plain_text import read_json
from mesm.datasets.shards.publishing import replace_file

HASH = "sha256"


def publish_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step, its folder too; FeatureError when the disk is full or unwritable.

    Bytes of file names that are not UTF-8, as Python's strings hold them, become escapes, which JSON reads back.
    """
    content = text.encode("utf-8", "backslashreplace")
    replace_file(path, lambda temporary: temporary.write_bytes(content))


def publish_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write what JSON can hold as an object with its hash, so that `read_facts` finds a changed digit.

    Errors as in `publish_text`.
    """
    publish_text(path, json.dumps(hashed(facts), indent=1) + "\n")


def read_facts(path: Path) -> dict[str, Any]:
    """Return what `publish_facts` wrote. Raises ValueError for anything else, OSError when it cannot be read."""
    return without_hash(read_json(path))


def hashed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts that JSON can hold with the hash of them."""
    return {**facts, HASH: _hash(facts)}


def without_hash(facts: Any) -> dict[str, Any]:
    """Return facts as they were before `hashed`, which earlier versions did not do; ValueError when they are others."""
    if not isinstance(facts, dict):
        raise ValueError("expected an object")
    plain = {name: value for name, value in facts.items() if name != HASH}
    if HASH in facts and facts[HASH] != _hash(plain):
        raise ValueError(f"it was changed: its content does not have the {HASH} that it states")
    # The name of the hash may be what was changed.
    if HASH not in facts and any(len(name) == len(HASH) and _letters_off(name) == 1 for name in facts):
        raise ValueError(f"it was changed: it has an entry whose name is almost {HASH}")
    return plain


def _letters_off(name: str) -> int:
    return sum(one != other for one, other in zip(name, HASH, strict=True))


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
