"""Decode videos in child processes that may hang, crash or be killed without harm to anybody else.

A `DecodePool` starts its processes anew (never by fork: decord aborts there), gives each one video at a time
and hands back what they report as events, in the order in which things happen:

    with DecodePool(workers=2, timeout_s=60) as pool:
        pool.start(0, path)
        while pool.busy:
            match pool.next_event():
                case Probed() as probed: pool.decode(probed, [FrameOutput(transform, wanted_frames)])
                case DecodedFrame(job, output, number, pixels): ...  # pixels are valid until the next event
                case Finished(job) | Failed(job, error): ...
                case Restarted(job): ...  # decord failed; PyAV begins again with Probed

Frames travel through a ring of slots in shared memory, one ring per process, so that memory is bounded
whatever the video's length. A process that makes no progress for `timeout_s` is killed and replaced; waiting
for a free slot does not count. Children end with their parent, even when it is killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.decoding.events import DecodedFrame, Event, Failed, Finished, FrameOutput, Probed, Restarted
from mesm.extractors.decoding.frame_ring import FrameRing, ring_bytes
from mesm.extractors.errors import (
    DecodeError,
    DecodeMemoryError,
    DecodeTimeoutError,
    ExtractorError,
    ProbeError,
    VideoChangedError,
    VideoError,
)

__all__ = ["DecodePool", "DecodedFrame", "Event", "Failed", "Finished", "FrameOutput", "Probed", "Restarted"]

MAX_FRAME_BYTES = 1024**3
"""A larger frame is refused rather than risked."""

START_TIMEOUT_S = 300.0
"""Seconds that a process may take to start and import."""

FALSE_STARTS = 3
"""Processes one after the other that may end before they began: memory may be short for a moment."""

_CHECK_S = 0.25
_EXIT_S = 2.0
_ERRORS = (ProbeError, DecodeError, DecodeTimeoutError, DecodeMemoryError, VideoChangedError)
_CHILD_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[4]);"
    "from mesm.extractors.decoding.process import serve; serve(*map(int, sys.argv[1:4]))"
)


@dataclass
class _Job:
    number: int
    path: Path
    forced: str | None = None
    """The decoder of a second attempt."""
    decoder: str = ""
    """The decoder that the probe chose; empty before."""


@dataclass
class _Worker:
    """One child process and the parent's end of what it shares with it."""

    process: subprocess.Popen[bytes]
    connection: Connection
    ring: FrameRing
    complaints: IO[bytes]
    started: float = field(default_factory=time.monotonic)
    ready: bool = False
    job: _Job | None = None
    asked: float = 0.0
    """When the process last got something to do."""
    busy: bool = False
    """Whether it is the process's turn, as far as its messages were read."""
    free: int = 0
    """Slots that it may fill."""

    def send(self, message: tuple[Any, ...]) -> None:
        """Send to the process. When it died, its connection's end will be noticed at the next event."""
        self.asked = time.monotonic()
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return

    def stuck_s(self) -> float:
        """Return for how many seconds the process has not got on although it could."""
        if self.job is None or not self.busy or not self.free or self.connection.poll():
            return 0.0
        return time.monotonic() - max(self.asked, self.ring.last_beat)

    def last_complaint(self) -> str:
        """Return the last line that the process wrote to its standard error."""
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def end(self) -> int:
        """Kill the process, collect it and release what was shared; return its exit status."""
        self.process.kill()
        status = self.process.wait()
        self.connection.close()
        self.ring.close()
        self.complaints.close()
        return status


class DecodePool:
    """Up to `workers` processes that probe and decode videos; a context manager."""

    def __init__(self, workers: int = 1, *, timeout_s: float = 60.0, threads: int = 1) -> None:
        """Prepare a pool; processes start when they are first needed.

        `timeout_s`: seconds without a new frame after which a video is given up. `threads`: decoder threads
        of each process; by default the cores are shared out.
        """
        self.workers = workers
        self.timeout_s = timeout_s
        self.threads = threads
        self._workers: list[_Worker] = []
        self._jobs: set[int] = set()
        self._events: deque[tuple[Event, _Worker | None, _Job, int]] = deque()
        self._lent: tuple[_Worker, int] | None = None
        self._checked = time.monotonic()
        self._false_starts = 0

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that are alive."""
        return [worker.process.pid for worker in self._workers]

    @property
    def idle(self) -> int:
        """How many videos may be started now."""
        return self.workers - len(self._jobs)

    @property
    def busy(self) -> bool:
        """Whether an event is to come."""
        return bool(self._jobs)

    def start(self, job: int, path: Path) -> None:
        """Begin to measure a video; `idle` must be above 0."""
        self._jobs.add(job)
        self._assign(_Job(job, path))

    def decode(self, probed: Probed, outputs: Sequence[FrameOutput]) -> None:
        """Answer `Probed`: decode the video and hand back these frames, each output's in ascending order.

        Raises DecodeMemoryError when the frames are too large, or shared memory for them is not to be had; the video is
        dismissed then.
        """
        slot_bytes = max(_frame_bytes(probed.info, output) for output in outputs)
        if slot_bytes > MAX_FRAME_BYTES:
            self.dismiss(probed)
            size = f"{probed.info.width}x{probed.info.height}"
            raise DecodeMemoryError(f"{probed.info.path}: frames of {size} pixels are too large to decode")
        worker = self._worker_of(probed)
        if worker is not None:
            try:
                free = worker.ring.grow(slot_bytes)
            except OSError as error:
                self.dismiss(probed)
                raise DecodeMemoryError(_no_memory(probed.info.path, slot_bytes, error)) from error
            worker.busy, worker.free = True, free
            worker.send(("decode", list(outputs), self.threads, worker.free, slot_bytes))

    def dismiss(self, probed: Probed) -> None:
        """Answer `Probed`: this video need not be decoded. No further event comes for it."""
        self._jobs.discard(probed.job)
        worker = self._worker_of(probed)
        if worker is not None:
            worker.job = None
            worker.send(("dismiss",))

    def next_event(self) -> Event:
        """Wait for the next event. Raises ExtractorError when a decode process cannot be started at all."""
        self._take_back()
        while not self._events:
            connections: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
            for connection in wait(list(connections), timeout=_CHECK_S):
                self._receive(connections[connection])
            self._check_progress()
        event, worker, job, slot = self._events.popleft()
        if isinstance(event, DecodedFrame) and worker is not None:
            self._lent = (worker, slot)
        if isinstance(event, Finished | Failed):
            return self._conclude(event, worker, job)
        return event

    def close(self) -> None:
        """End all processes."""
        self._lent = None
        self._events.clear()
        self._jobs.clear()
        while self._workers:
            self._workers.pop().end()

    def _assign(self, job: _Job) -> None:
        for worker in [worker for worker in self._workers if worker.job is None]:
            if worker.process.poll() is None:
                break
            self._workers.remove(worker)
            worker.end()
        else:
            worker = _start_worker()
            self._workers.append(worker)
        worker.job, worker.busy, worker.free = job, True, 1
        worker.send(("open", job.path, job.forced))

    def _conclude(self, event: Finished | Failed, worker: _Worker | None, job: _Job) -> Event:
        """Free the process for the next video, now that all frames of this one were shown.

        Where the failure may be decord's fault alone, PyAV is given the video.
        """
        if worker is not None:
            worker.job = None
        if isinstance(event, Failed) and job.decoder == "decord" and type(event.error) is DecodeError:
            self._assign(_Job(job.number, job.path, forced="pyav"))
            return Restarted(job.number)
        self._jobs.discard(job.number)
        return event

    def _worker_of(self, probed: Probed) -> _Worker | None:
        """Return the process that waits for an answer; None when it died, for which an event is to come."""
        waiting = (worker for worker in self._workers if worker.job and worker.job.number == probed.job)
        return next(waiting, None)

    def _take_back(self) -> None:
        """Release the slot of the frame that the last event showed."""
        if self._lent is not None:
            worker, slot = self._lent
            self._lent = None
            if worker in self._workers:
                worker.free += 1
                worker.send(("free", slot))

    def _receive(self, worker: _Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._lost(worker)
            return
        if message == ("ready",):
            worker.ready, worker.asked = True, time.monotonic()
            self._false_starts = 0
        elif worker.job is not None and message != ("dismissed",):
            event, slot = _read_event(message, worker, worker.job)
            self._events.append((event, worker, worker.job, slot))

    def _lost(self, worker: _Worker) -> None:
        """Deal with a process that ended by itself."""
        self._workers.remove(worker)
        # Its connection is closed, so it is about to end; killing it first would hide why.
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(_EXIT_S)
        lingers = worker.process.poll() is None
        complaint, status = worker.last_complaint(), worker.end()
        if not worker.ready:
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS:
                raise ExtractorError(
                    f"{FALSE_STARTS} decode processes ended before they began, the last with status {status}: "
                    f"{complaint}"
                )
            if worker.job is not None:
                self._assign(worker.job)
        elif worker.job is not None:
            failed = Failed(worker.job.number, _death(worker.job.path, 0 if lingers else status))
            self._events.append((failed, None, worker.job, 0))

    def _check_progress(self) -> None:
        """Kill processes that are stuck, looking at most every quarter of a second."""
        now = time.monotonic()
        if now - self._checked < _CHECK_S:
            return
        self._checked = now
        for worker in list(self._workers):
            if not worker.ready and now - worker.started > START_TIMEOUT_S:
                raise ExtractorError(f"a decode process did not start within {START_TIMEOUT_S:g} s")
            if worker.ready and worker.job is not None and worker.stuck_s() > self.timeout_s:
                self._workers.remove(worker)
                worker.end()
                text = f"{worker.job.path}: the decoder made no progress for {self.timeout_s:g} s"
                failed = Failed(worker.job.number, DecodeTimeoutError(text))
                self._events.append((failed, None, worker.job, 0))


def _read_event(message: tuple[Any, ...], worker: _Worker, job: _Job) -> tuple[Event, int]:
    """Turn a process's message into an event and the slot that it occupies."""
    worker.busy = message[0] == "frame"
    match message:
        case ("probed", info, source):
            job.decoder = info.decoder
            return Probed(job.number, info, source), 0
        case ("frame", output, number, slot, shape):
            worker.free -= 1
            return DecodedFrame(job.number, output, number, worker.ring.slot(slot, shape)), slot
        case ("finished", decoder, missing):
            return Finished(job.number, decoder, missing), 0
    kind, text = message[1:]
    error = next(error for error in _ERRORS if error.__name__ == kind)
    return Failed(job.number, error(text)), 0


def _start_worker() -> _Worker:
    try:
        return _try_to_start_worker()
    except OSError as error:
        raise ExtractorError(f"no decode process can be started: {error.strerror or error}") from error


def _try_to_start_worker() -> _Worker:
    ours, theirs = socket.socketpair()
    ring = FrameRing.create()
    complaints = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
    descriptors = (theirs.fileno(), ring.descriptor)
    arguments = [*map(str, descriptors), str(os.getpid()), json.dumps(sys.path)]
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD_PROGRAM, *arguments],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            # Ctrl-C is the parent's to handle.
            start_new_session=True,
        )
    return _Worker(process, Connection(ours.detach()), ring, complaints)


def _frame_bytes(info: VideoInfo, output: FrameOutput) -> int:
    height, width = output.transform.crop if output.transform else (info.height, info.width)
    return height * width * 3


def _no_memory(path: Path, slot_bytes: int, error: OSError) -> str:
    needed = ring_bytes(slot_bytes) / 2**20
    limit = "; raise the limit on the size of files (ulimit -f unlimited)" if error.errno == errno.EFBIG else ""
    return f"{path}: {needed:.0f} MiB of shared memory for its frames are not to be had: {error.strerror}{limit}"


def _death(path: Path, status: int) -> VideoError:
    if status == -signal.SIGKILL:
        return DecodeMemoryError(f"{path}: the decode process was killed, as happens when memory runs out")
    ending = f"crashed ({signal.Signals(-status).name})" if status < 0 else f"ended by itself (status {status})"
    return DecodeError(f"{path}: the decode process {ending}")
