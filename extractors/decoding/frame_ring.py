"""Slots for decoded frames in anonymous memory that a decode process shares with its parent.

The memory has no name: nothing can be left behind on a disk or in /dev/shm, whose size containers limit. Its
first page tells the parent when the process last got on.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time

import numpy as np

RING_BYTES = 64 * 1024**2
"""Memory of one ring, unless two frames need more."""

MAX_SLOTS = 64
"""Frames in flight between a process and its parent; few enough that their pipe cannot fill up."""

_HEADER_BYTES = mmap.PAGESIZE


class FrameRing:
    """Both ends of the shared memory; the parent creates it and the child attaches to its file descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Attach to the memory behind a file descriptor."""
        self.descriptor = descriptor
        self._slot_bytes = 0
        self._bytes = self._map()

    @classmethod
    def create(cls) -> FrameRing:
        """Make a ring that so far holds no slot."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("mesm-frames", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, _HEADER_BYTES)
        return cls(descriptor)

    def grow(self, slot_bytes: int) -> int:
        """Lay the memory out in slots of this size, enlarging it where needed; return how many there are.

        OSError when the system does not give that much.
        """
        slots = _slots(slot_bytes)
        needed = ring_bytes(slot_bytes)
        if needed > os.fstat(self.descriptor).st_size:
            os.ftruncate(self.descriptor, needed)
        self.lay_out(slot_bytes)
        return slots

    def lay_out(self, slot_bytes: int) -> None:
        """See the memory as slots of this size, as the other end laid it out."""
        self._slot_bytes = slot_bytes
        self._bytes = self._map()

    def slot(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return a slot as uint8 pixels of this shape, a view into the shared memory."""
        start = _HEADER_BYTES + number * self._slot_bytes
        return self._bytes[start : start + int(np.prod(shape))].reshape(shape)

    def beat(self) -> None:
        """Tell the other end that there was progress just now."""
        self._bytes[:8].view(np.float64)[:] = time.monotonic()

    @property
    def last_beat(self) -> float:
        """When the other end last told of progress, on `time.monotonic`'s clock, which all processes share."""
        return float(self._bytes[:8].view(np.float64)[0])

    def close(self) -> None:
        """Let go of the memory; it vanishes when both ends have."""
        os.close(self.descriptor)

    def _map(self) -> np.ndarray:
        # The mapping lives as long as the arrays that show it.
        mapped = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        return np.frombuffer(mapped, dtype=np.uint8)


def ring_bytes(slot_bytes: int) -> int:
    """Return the bytes of a ring with slots of this size."""
    return _HEADER_BYTES + _slots(slot_bytes) * slot_bytes


def _slots(slot_bytes: int) -> int:
    return min(max(RING_BYTES // slot_bytes, 2), MAX_SLOTS)
