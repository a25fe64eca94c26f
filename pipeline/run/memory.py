"""How the C library treats memory that a training step, or a batch of an extraction, frees; and how much was used."""

from __future__ import annotations

import ctypes
import platform
import resource
from pathlib import Path

import torch

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


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has used: on a GPU that of its tensors, else its largest resident size.

    On Linux this is VmHWM, as `ru_maxrss` begins with the size of the process that started this one.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int:
    """Bytes that new allocations can take without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 8 * 1024**3
