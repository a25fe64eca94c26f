"""Which content a file had when it was looked at, told by its size, its time and hashes of its bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from mesm.extractors.errors import ProbeError, VideoChangedError

_HASH_BLOCK = 64 * 1024
_HASH_BLOCKS = 16
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class SourceFile:
    """Which content a file had."""

    path: Path
    size: int
    """Bytes."""
    modified_ns: int
    """Time of the last change, in nanoseconds since 1970."""
    quick_hash: str
    """sha256 of the size and the content, or of 16 evenly spaced blocks of 64 KiB where that is more than 1 MiB."""
    whole_hash: str = ""
    """sha256 of the size and all of the content; empty when only the blocks were read."""

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """Look at a file now, reading at most 1 MiB; ProbeError when it is no regular file with content."""
        status = refuse_irregular(path)
        try:
            with open(path, "rb") as file:
                return cls(path, status.st_size, status.st_mtime_ns, quick_hash(file, status.st_size))
        except OSError as error:
            raise ProbeError(f"{path} cannot be read: {error.strerror}") from error

    def hashed(self, on_progress: Callable[[], None] = lambda: None) -> SourceFile:
        """Read all of the file for `whole_hash`; `on_progress` is called after each MiB. ProbeError as `of`."""
        if self.size <= _HASH_BLOCKS * _HASH_BLOCK:
            return replace(self, whole_hash=self.quick_hash)
        digest = hashlib.sha256(str(self.size).encode())
        try:
            with open(self.path, "rb", buffering=0) as file:
                while block := file.read(_READ_BYTES):
                    digest.update(block)
                    on_progress()
        except OSError as error:
            raise ProbeError(f"{self.path} cannot be read: {error.strerror}") from error
        return replace(self, whole_hash=digest.hexdigest())

    def refuse_changed(self) -> None:
        """Raise VideoChangedError when the file is no longer the one that was looked at."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise VideoChangedError(f"{self.path} vanished while it was read: {error.strerror}") from error
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
            raise VideoChangedError(
                f"{self.path} changed while it was read: {self.size} bytes before, {status.st_size} after"
            )


def quick_hash(file: BinaryIO, size: int) -> str:
    """Return the `quick_hash` of an open file of `size` bytes, reading at most 1 MiB of it."""
    digest = hashlib.sha256(str(size).encode())
    last_start = max(size - _HASH_BLOCK, 0)
    for block in range(_HASH_BLOCKS):
        if size > _HASH_BLOCKS * _HASH_BLOCK:
            file.seek(last_start * block // (_HASH_BLOCKS - 1))
        digest.update(file.read(_HASH_BLOCK))
    return digest.hexdigest()


def refuse_irregular(path: Path) -> os.stat_result:
    """Refuse what is no regular file with content, by a ProbeError, before any media library sees its name."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        hint = "addresses and protocols are not read; " if ":" in str(path) else ""
        reason = getattr(error, "strerror", None) or str(error)
        raise ProbeError(f"{path}: expected a video file; {hint}{reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ProbeError(f"{path}: expected a video file, found a folder, pipe or device")
    if status.st_size == 0:
        raise ProbeError(f"{path} is empty (0 bytes)")
    return status
