"""A hook for tests: die at a named moment, as a power cut or an out-of-memory kill would have it.

Code that writes calls `write_point("shard:fsynced")` where a sudden death would be interesting. The call does
nothing unless the environment variable MESM_FAULT names that point: `MESM_FAULT=shard:fsynced` kills the
process with SIGKILL at the first passage, `MESM_FAULT=shard:fsynced:3` at the third. `listen` tells who wants to kill
from outside, or between two points, how far a process has come.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

FAULT_VARIABLE = "MESM_FAULT"
_passages: Counter[str] = Counter()
_listeners: list[Callable[[str], object]] = []


def write_point(name: str) -> None:
    """Kill this process here if MESM_FAULT asks for it, otherwise return at once."""
    for listener in _listeners:
        listener(name)
    wanted = os.environ.get(FAULT_VARIABLE)
    if not wanted:
        return
    point, passage = parse_fault(wanted)
    if point != name:
        return
    _passages[name] += 1
    if _passages[name] == passage:
        os.kill(os.getpid(), signal.SIGKILL)


def listen(listener: Callable[[str], object]) -> None:
    """Have a function called with the name of every write point that this process passes."""
    _listeners.append(listener)


def parse_fault(text: str) -> tuple[str, int]:
    """Split `name[:n]` into the name, which may hold colons itself, and the passage, counted from 1."""
    name, _, last = text.rpartition(":")
    if name and last.isdecimal():
        return name, int(last)
    return text, 1
