"""Work in processes that may be killed, forked from one that has imported everything, which takes longer than the work.

`Forks` starts `serve` as a program, which reads one JSON object a line, a `Task` and how often to do it at the same
time, and answers with one line, an `Ended`.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mesm.datasets.shards import faults
from mesm.pipeline.run.threads import PASSIVE

PATIENCE = "MESM_TORTURE_PATIENCE_S"
"""Variable: within how many seconds processes of a killed one have to notice and end; 20 where it is not set."""
LOOK_EVERY_S = 0.0005
_SUBREAPER = 36
"""Of prctl: who is left behind by a process that died becomes a child of this one."""


@dataclass(frozen=True)
class Kill:
    """When to kill: a while after a write point has been passed so often."""

    point: str = ""
    """A write point (`mesm.datasets.shards.faults`); empty for the beginning."""
    passage: int = 1
    delay_s: float = 0.0


@dataclass(frozen=True)
class Task:
    """A call in a process of its own."""

    call: str
    """`module:function`; the exit code is what it returns, 0 for None."""
    arguments: Sequence[Any] = ()
    """What JSON can hold."""
    output: str = ""
    """A file that takes what is printed; it is printed here when empty."""
    fault: str = ""
    """A write point that kills, as MESM_FAULT names it."""
    kill: Kill | None = None
    file_bytes: int = 0
    """No file may grow longer than that; 0 for no limit."""


@dataclass(frozen=True)
class Ended:
    """How processes ended."""

    statuses: list[int]
    """As `os.waitstatus_to_exitcode` has them: negative for signals."""
    passages: list[tuple[str, float]] = field(default_factory=list)
    """Write points that were passed, with the seconds since the start."""
    seconds: float = 0.0
    orphans: int = 0
    """Processes that outlived the one that started them for longer than they may."""

    @property
    def status(self) -> int:
        """The status of the only process."""
        (status,) = self.statuses
        return status


_PROGRAM = "import sys; from mesm.tools.attacks.processes import serve; serve(sys.argv[1:])"


class Forks:
    """A process that imports modules once and forks at every task."""

    def __init__(self, modules: Sequence[str]) -> None:
        """Start it; modules: what to import before."""
        command = [sys.executable, "-c", _PROGRAM, *modules]
        environment = {**PASSIVE, **os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, task: Task, copies: int = 1) -> Ended:
        """Do a task, or several times at once, and wait for the end of all."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**asdict(task), "copies": copies}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that forks ended with {self._process.wait()}")
        answer = json.loads(line)
        return Ended(**{**answer, "passages": [(name, at) for name, at in answer["passages"]]})

    def close(self) -> None:
        """End the process, and wait for its end."""
        self._process.communicate()

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(modules: Sequence[str]) -> None:
    """Answer tasks on standard input until it ends."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        copies, kill = request.pop("copies"), request.pop("kill")
        task = Task(**request, kill=None if kill is None else Kill(**kill))
        print(json.dumps(asdict(_Watch(task, copies).ended())), flush=True)


class _Watch:
    """Starts processes, listens to the write points that they pass, kills the first one, and waits for all."""

    def __init__(self, task: Task, copies: int) -> None:
        self._kill = task.kill
        self._passed, writing = os.pipe()
        os.set_blocking(self._passed, False)
        self._rest = b""
        self._passages: list[tuple[str, float]] = []
        self._statuses: dict[int, int] = {}
        self._started = time.monotonic()
        self._processes = [_start(task, writing) for _ in range(copies)]
        os.close(writing)

    def ended(self) -> Ended:
        """Wait for the end of all processes, and of those that they started."""
        while not all(process in self._statuses for process in self._processes):
            self._listen()
            self._kill_when_due()
            self._reap()
            time.sleep(LOOK_EVERY_S)
        seconds = time.monotonic() - self._started
        self._listen()
        os.close(self._passed)
        orphans = self._orphans()
        return Ended([self._statuses[p] for p in self._processes], self._passages, seconds, orphans)

    def _listen(self) -> None:
        try:
            content = os.read(self._passed, 65536)
        except BlockingIOError:
            return
        *names, self._rest = (self._rest + content).split(b"\n")
        self._passages += [(name.decode(), time.monotonic() - self._started) for name in names]

    def _kill_when_due(self) -> None:
        if self._kill is None:
            return
        passed = [at for name, at in self._passages if name == self._kill.point]
        if self._kill.point and len(passed) < self._kill.passage:
            return
        since = passed[self._kill.passage - 1] if self._kill.point else 0.0
        if time.monotonic() - self._started >= since + self._kill.delay_s:
            os.kill(self._processes[0], signal.SIGKILL)
            self._kill = None

    def _reap(self) -> bool:
        """Take note of a process that ended; False when there are no more."""
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if process:
            self._statuses[process] = os.waitstatus_to_exitcode(status)
        return True

    def _orphans(self) -> int:
        """Wait for what the processes left running; kill and count what does not end by itself."""
        deadline = time.monotonic() + float(os.environ.get(PATIENCE, "20"))
        while self._reap() and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
            os.waitpid(int(child), 0)
        return len(children)


def function(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names."""
    module, _, own = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), own)
    return found


def _start(task: Task, passed: int) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        _prepare(task, passed)
        code = function(task.call)(*task.arguments) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _prepare(task: Task, passed: int) -> None:
    """Make this process, just forked, one that does a task."""
    os.environ[faults.FAULT_VARIABLE] = task.fault
    faults.listen(lambda name: os.write(passed, f"{name}\n".encode()))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(task.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666) if task.output else 2
    os.dup2(output, 1)
    os.dup2(output, 2)
    if task.file_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (task.file_bytes, task.file_bytes))
