"""The folder of one running server: uploads, previews, cuts. It goes with the server, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PREFIX = "mesm-serve-"
LOCK_FILE = ".lock"
_WAITER = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"
"""Reads from a pipe that its server holds, which ends with the server, and then removes the folder."""


class Scratch:
    """A folder that only its owner can enter; a context manager.

    It is removed at the end, by another process when the server is killed, and by the next server when both were.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """Make the folder in `parent`, by default where temporary files go, and remove those of dead servers."""
        place = parent or Path(tempfile.gettempdir())
        place.mkdir(parents=True, exist_ok=True)
        remove_left_behind(place)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        # The lock ends with this process alone: children do not inherit it.
        self._lock = os.open(self.path / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._waiter = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WAITER, str(self.path)], stdin=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def folder(self, name: str) -> Path:
        """Return a folder inside, made when it is not there."""
        found = self.path / name
        found.mkdir(mode=0o700, exist_ok=True)
        return found

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.path, ignore_errors=True)
        assert self._waiter.stdin is not None
        self._waiter.stdin.close()
        self._waiter.wait()
        with contextlib.suppress(OSError):
            os.close(self._lock)


def remove_left_behind(place: Path) -> list[Path]:
    """Remove folders of servers that live no more, and return them."""
    removed = []
    for folder in sorted(place.glob(f"{PREFIX}*")):
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
            continue
        if not _is_held(folder / LOCK_FILE):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
