"""How the C library treats memory that a training step, or a batch of an extraction, frees."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_PAD_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for the next allocation; returns whether that was possible.

    By default, glibc returns every large block to the system at once and gets it again, page by page, zeroed, a moment
    later. A step, or a batch of frames, allocates the same large tensors as the last one, and writing to fresh pages
    takes longer than most of what is done with them. The process stays at the size of its largest step. Other C
    libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _PAD_BYTES), (_ARENA_MAX, 1))
    results = [library.mallopt(name, value) for name, value in settings]
    return all(result == 1 for result in results)
