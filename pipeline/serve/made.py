"""Files that are made when they are asked for, and kept while there is room: pictures, previews, cuts."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


class BusyError(Exception):
    """Too many wait already."""


class Made:
    """A folder of such files, made one after the other; the least used go first."""

    def __init__(self, folder: Path, most_bytes: int, waiting: int) -> None:
        """Keep up to so many bytes; refuse those who ask while `waiting` others wait."""
        self._folder, self._most_bytes, self._waiting = folder, most_bytes, waiting
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._asking = 0

    def open(self, name: str, make: Callable[[Path], object]) -> BinaryIO:
        """Return the open file of that name, after `make` has written it where it was not there.

        name: a plain one of ours; it begins with the key of its film. What `make` raises passes through. BusyError.
        """
        path = self._folder / name
        with self._lock:
            if self._asking > self._waiting:
                raise BusyError
            self._asking += 1
        try:
            found = self._known(name)
            if found is not None:
                return found
            with self._making:
                found = self._known(name)
                if found is not None:
                    return found
                make(path)
                return self._keep(name)
        finally:
            with self._lock:
                self._asking -= 1

    def forget(self, key: str) -> None:
        """Remove all that was made of a film."""
        with self._lock:
            for name in [name for name in self._sizes if name.startswith(key)]:
                self._remove(name)

    def _known(self, name: str) -> BinaryIO | None:
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
            return open(self._folder / name, "rb", buffering=0)

    def _keep(self, name: str) -> BinaryIO:
        """Open what was made before others can push it out."""
        with self._lock:
            file = open(self._folder / name, "rb", buffering=0)  # noqa: SIM115 - closed by who asked for it
            self._sizes[name] = os.fstat(file.fileno()).st_size
            while sum(self._sizes.values()) > self._most_bytes and self._sizes:
                self._remove(next(iter(self._sizes)))
        return file

    def _remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)
        del self._sizes[name]
