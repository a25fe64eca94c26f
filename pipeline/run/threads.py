"""How torch's idle threads wait: awake while there is a core for each of them, asleep while others want the cores.

A step of a small network has thousands of parallel regions. Between them the threads of OpenMP spin, because waking a
thread takes tens of microseconds on a virtual machine: with threads that always sleep, which is what
`OMP_WAIT_POLICY=PASSIVE` alone asks for, a step takes 1.3 to 1.7 times as long. Beside a busy process spinning is far
worse: threads that wait keep from the cores those that they wait for, and a step takes 4 to 50 times as long.

GNU's OpenMP, which torch brings on Linux, knows two numbers of spins: one, and one for the time when it manages more
threads than there are cores, which is 0 under the passive policy. So the policy is passive, the first number is
OpenMP's own, and a watch sees to it that the second one holds while our threads have to wait for cores: it parks a team
of threads that never compute (see `ParkedTeam`). How many threads compute does not change, nor does any result.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user says how threads wait."""

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Where nobody can watch, threads always sleep."""

WATCHED = {**PASSIVE, "GOMP_SPINCOUNT": "300000"}
"""300,000 spins, some milliseconds, are what libgomp does when nobody chooses."""

CROWDED_SHARE = 0.1
"""Share of the time that one of our threads was ready to run and had no core from which on others want the cores."""

QUIET_LOOKS = 3
"""Looks that must find the cores free, one after the other: spinning too early costs more than sleeping too long."""

INTERVAL_S = 1.0

_TASKS, _MAPS = Path("/proc/self/task"), Path("/proc/self/maps")


def wait_quietly() -> None:
    """Have the idle threads of this process leave the cores to others. For programs, before they import torch.

    Sets environment variables, which processes started from here inherit, and starts a thread that watches. What a user
    chose by one of the `CHOICES` stays.
    """
    ours = WATCHED if _waited_ns() else PASSIVE
    if {name: os.environ[name] for name in CHOICES if name in os.environ} not in ({}, ours):
        return
    os.environ.update(ours)
    if ours is WATCHED:
        threading.Thread(target=_watch, name="watch of the cores", daemon=True).start()


@dataclass
class Crowd:
    """Whether others want the cores, as seen from how long our threads had to wait for one."""

    here: bool = False
    _quiet_looks: int = 0

    def look(self, waited: float) -> bool:
        """Judge by the share of the last second that a thread waited; returns whether others want the cores now."""
        self._quiet_looks = 0 if waited >= CROWDED_SHARE else self._quiet_looks + 1
        self.here = self._quiet_looks == 0 or (self.here and self._quiet_looks < QUIET_LOOKS)
        return self.here


class ParkedTeam:
    """A team of threads that sleep, so that libgomp manages more threads than there are cores.

    A thread that opens a parallel region keeps its team until it ends, so it takes a thread of its own to own one. The
    region calls `free(NULL)`, which does nothing, as a function that needs no Python.
    """

    def __init__(self, libraries: set[str]) -> None:
        """`libraries`: the files of libgomp that are to have such a team."""
        self.libraries = libraries
        self._released, self._parked = threading.Event(), threading.Event()
        self._owner = threading.Thread(target=self._own, name="owner of a parked team", daemon=True)
        self._owner.start()
        self._parked.wait()

    def _own(self) -> None:
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
        for library in map(ctypes.CDLL, self.libraries):
            library.GOMP_parallel(nothing, None, library.omp_get_num_procs() + 1, 0)
        self._parked.set()
        self._released.wait()

    def release(self) -> None:
        """End the team."""
        self._released.set()
        self._owner.join()


def _watch() -> None:
    """Park a team for as long as others want the cores."""
    crowd, team = Crowd(), ParkedTeam(set())
    before, started = _waited_ns(), time.monotonic()
    while True:
        time.sleep(INTERVAL_S)
        now, ended = _waited_ns(), time.monotonic()
        longest = max(ns - before.get(task, 0) for task, ns in now.items())
        # A library may be loaded while there is a crowd.
        libraries = _loaded_libgomps() if crowd.look(longest / 1e9 / (ended - started)) else set()
        before, started = now, ended
        if libraries != team.libraries:
            team.release()
            team = ParkedTeam(libraries)


def _waited_ns() -> dict[str, int]:
    """Nanoseconds that each thread of this process was ready to run and had no core; empty where nobody counts them."""
    waited = {}
    for task in _TASKS.glob("*"):
        try:
            ran, ready, _ = map(int, (task / "schedstat").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            # The thread has ended, or the system does not count.
            continue
        if ran:
            waited[task.name] = ready
    return waited


def _loaded_libgomps() -> set[str]:
    """Files of libgomp that are loaded: torch's, and perhaps that of another library with one of its own."""
    return set(re.findall(r"/\S*/libgomp[-.\w]*\.so\S*", _MAPS.read_text()))
