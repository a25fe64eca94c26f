"""Decode processes may hang, crash or be killed: it costs one video, with a typed reason, and nothing else."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from media import BROKEN, FILMS, X264, Film, make_film, read_number, with_bad_frames
from misbehaving import wrong_since

from mesm.extractors.contracts import FrameTransform
from mesm.extractors.decoding import pool as decoding
from mesm.extractors.decoding.pool import DecodedFrame, DecodePool, Failed, Finished, FrameOutput, Probed, Restarted
from mesm.extractors.errors import (
    DecodeError,
    DecodeMemoryError,
    DecodeTimeoutError,
    ProbeError,
    VideoChangedError,
    VideoError,
)

TIMEOUT_S = 2.0
"""Of the pools under test: far above a frame's time, also on a busy machine."""

PATIENCE_S = 100.0
"""For a whole test, starting of processes included."""

COUNT = 50
"""Frames of the films here."""


@dataclass
class Outcome:
    """What a pool made of one video."""

    frames: dict[int, list[int]] = field(default_factory=dict)
    """Frame numbers by output."""
    painted: dict[int, list[int | None]] = field(default_factory=dict)
    shapes: set[tuple[int, ...]] = field(default_factory=set)
    attempts: int = 0
    decoder: str = ""
    missing: int = 0
    error: VideoError | None = None

    @property
    def whole(self) -> bool:
        """Whether every frame came once, in order and with the right picture."""
        numbers = list(range(COUNT))
        return self.error is None and self.frames == {0: numbers} and self.painted == {0: numbers}


Outputs = Callable[[Probed], Sequence[FrameOutput]]
OnEvent = Callable[[DecodePool, object], None]


def all_frames(probed: Probed) -> list[FrameOutput]:
    return [FrameOutput(None, np.arange(probed.info.frame_count))]


def decode_all(
    pool: DecodePool, paths: Sequence[Path], outputs: Outputs = all_frames, on_event: OnEvent | None = None
) -> list[Outcome]:
    """Decode videos with a pool; `on_event` is called with each event before it is dealt with."""
    outcomes = [Outcome() for _ in paths]
    waiting = list(enumerate(paths))
    started = time.monotonic()
    while waiting or pool.busy:
        assert time.monotonic() - started < PATIENCE_S, "the pool goes on and on"
        while waiting and pool.idle:
            pool.start(*waiting.pop(0))
        event = pool.next_event()
        if on_event:
            on_event(pool, event)
        take_note(pool, event, outcomes[event.job], outputs)
    return outcomes


def take_note(pool: DecodePool, event: object, outcome: Outcome, outputs: Outputs) -> None:
    """Answer an event and keep what it tells."""
    match event:
        case Probed():
            outcome.attempts += 1
            pool.decode(event, outputs(event))
        case DecodedFrame(_, output, number, pixels):
            outcome.frames.setdefault(output, []).append(number)
            outcome.painted.setdefault(output, []).append(read_number(pixels))
            outcome.shapes.add(pixels.shape)
        case Restarted():
            outcome.frames, outcome.painted, outcome.shapes = {}, {}, set()
        case Finished(_, decoder, missing):
            outcome.decoder, outcome.missing = decoder, missing
        case Failed(_, error):
            outcome.error = error


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(FILMS["h264 b-frames"], tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def turned_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film that decord is not asked to read, so that a failure is final at once."""
    return make_film(FILMS["h264 rotated 90"], tmp_path_factory.mktemp("turned"))


@pytest.fixture
def named(film: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return the maker of copies of a film by file name without suffix."""

    def copy(name: str) -> Path:
        return Path(shutil.copy(film, tmp_path / f"{name}.mp4"))

    return copy


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let decode processes go wrong as `misbehaving` says."""
    program = decoding._CHILD_PROGRAM
    install = "import misbehaving; misbehaving.install();"
    before, serving = program.split("from mesm", 1)
    monkeypatch.setattr(decoding, "_CHILD_PROGRAM", f"{before}{install}from mesm{serving}")


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[DecodePool]:
    """A pool for tests that do its processes no harm."""
    with DecodePool(workers=1, timeout_s=30) as pool:
        yield pool


@pytest.fixture(autouse=True)
def no_child_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    before = set(children())
    yield
    if "shared_pool" not in request.fixturenames:
        assert set(children()) <= before


def children() -> dict[int, str]:
    """Return the state letter of each child process of this one, by process id; Z is a zombie."""
    found = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{int(entry)}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found[int(entry)] = fields[0]
    return found


def test_pool_hands_back_every_frame_in_order(shared_pool: DecodePool, film: Path) -> None:
    outcomes = decode_all(shared_pool, [film, film])
    assert all(outcome.whole for outcome in outcomes)
    assert {outcome.attempts for outcome in outcomes} == {1}


def test_outputs_get_their_own_frames_at_their_own_sizes(shared_pool: DecodePool, film: Path) -> None:
    def outputs(probed: Probed) -> list[FrameOutput]:
        half = FrameTransform("device", 32, None, (32, 48))
        return [
            FrameOutput(None, np.array([0, 7, 49])),
            FrameOutput(half, np.array([7, 8])),
            FrameOutput(FrameTransform("swscale", 32, None, (32, 48)), np.array([7])),
        ]

    (outcome,) = decode_all(shared_pool, [film], outputs)
    assert outcome.frames == {0: [0, 7, 49], 1: [7, 8], 2: [7]}
    assert outcome.painted == outcome.frames
    assert outcome.shapes == {(64, 96, 3), (32, 48, 3)}


def test_pixels_stay_until_the_next_event(shared_pool: DecodePool, film: Path) -> None:
    kept = []

    def keep(pool: DecodePool, event: object) -> None:
        if isinstance(event, DecodedFrame):
            kept.append(event.pixels.copy())

    decode_all(shared_pool, [film], on_event=keep)
    assert [read_number(pixels) for pixels in kept] == list(range(COUNT))


def test_video_of_which_nothing_is_wanted_is_dismissed(shared_pool: DecodePool, film: Path) -> None:
    shared_pool.start(7, film)
    probed = shared_pool.next_event()
    assert isinstance(probed, Probed)
    shared_pool.dismiss(probed)
    assert not shared_pool.busy
    assert decode_all(shared_pool, [film])[0].whole


@pytest.mark.parametrize("name", ["text", "named pipe", "truncated with moov", "missing", "m3u8 playlist"])
def test_broken_file_costs_no_process(name: str, shared_pool: DecodePool, film: Path, tmp_path: Path) -> None:
    before = decode_all(shared_pool, [film]) and shared_pool.pids
    broken, good = decode_all(shared_pool, [BROKEN[name](tmp_path), film])
    assert isinstance(broken.error, ProbeError)
    assert good.whole
    assert shared_pool.pids == before


@pytest.mark.parametrize("change", ["rewritten", "truncated", "deleted", "touched"])
def test_file_that_changes_while_it_is_read_is_an_error(
    change: str, shared_pool: DecodePool, named: Callable[[str], Path]
) -> None:
    path = named("changing")

    def spoil(pool: DecodePool, event: object) -> None:
        if isinstance(event, Probed) and change != "done":
            spoil_file(path, change)

    (outcome,) = decode_all(shared_pool, [path], on_event=spoil)
    expected = VideoError if change in ("truncated", "deleted") else VideoChangedError
    assert isinstance(outcome.error, expected)
    assert path.name in str(outcome.error)


def spoil_file(path: Path, change: str) -> None:
    if change == "deleted":
        path.unlink(missing_ok=True)
    elif change == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif change == "touched":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))
    else:
        path.write_bytes(make_film(Film("other.mp4", X264), path.parent).read_bytes())


def test_slow_taker_is_no_stuck_decoder(film: Path) -> None:
    with DecodePool(workers=1, timeout_s=0.5) as pool:
        pauses = iter([0.8, 0.8])

        def dawdle(pool: DecodePool, event: object) -> None:
            if isinstance(event, Probed) or (isinstance(event, DecodedFrame) and event.number == 3):
                time.sleep(next(pauses, 0))

        (outcome,) = decode_all(pool, [film], on_event=dawdle)
    assert outcome.whole


@pytest.mark.usefixtures("misbehaving")
def test_slow_decoder_that_goes_on_is_not_stuck(named: Callable[[str], Path]) -> None:
    with DecodePool(workers=1, timeout_s=1.0) as pool:
        (outcome,) = decode_all(pool, [named("slow")])
    assert outcome.whole


@pytest.mark.slow
@pytest.mark.usefixtures("misbehaving")
def test_hanging_decoder_is_given_up_and_others_go_on(named: Callable[[str], Path]) -> None:
    given_up: list[float] = []

    def watch(pool: DecodePool, event: object) -> None:
        if isinstance(event, Failed):
            path = Path(str(event.error).partition(":")[0])
            given_up.append(time.time() - wrong_since(path).stat().st_mtime)
            assert "Z" not in children().values()

    names = ["hang", "a", "nativehang", "b"]
    with DecodePool(workers=2, timeout_s=TIMEOUT_S) as pool:
        stuck, a, native, b = decode_all(pool, [named(name) for name in names], on_event=watch)
    for outcome, name in ((stuck, "hang"), (native, "nativehang")):
        assert isinstance(outcome.error, DecodeTimeoutError)
        assert f"{name}.mp4" in str(outcome.error)
    assert a.whole
    assert b.whole
    assert all(TIMEOUT_S * 0.9 < seconds < TIMEOUT_S + 3 for seconds in given_up)


def stop(pool: DecodePool) -> None:
    for pid in pool.pids:
        os.kill(pid, signal.SIGSTOP)


STOPS: dict[int, type] = {0: DecodedFrame, 1: DecodedFrame, 2: Probed, 3: Finished}
"""The event at which the process is stopped, by video."""


@pytest.mark.slow
@pytest.mark.usefixtures("misbehaving")
def test_stopped_process_is_given_up_and_replaced(
    named: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped while it decodes, waits for a slot, waits for the answer to its probe, or for a video."""
    monkeypatch.setattr("mesm.extractors.decoding.frame_ring.MAX_SLOTS", 4)
    stopped: dict[int, int] = {}

    def freeze(pool: DecodePool, event: object) -> None:
        job = event.job  # type: ignore[attr-defined]
        if job in stopped or not isinstance(event, STOPS.get(job, ())):
            return
        if job == 1:
            # Time enough for three frames more, after which there is no slot.
            time.sleep(0.5)
        stopped[job] = pool.pids[0]
        stop(pool)

    with DecodePool(workers=1, timeout_s=TIMEOUT_S) as pool:
        outcomes = decode_all(pool, [named(name) for name in ("slow", *"abcde")], on_event=freeze)
        assert not set(pool.pids) & set(stopped.values())
    assert len(set(stopped.values())) == len(STOPS)
    given_up = [isinstance(outcome.error, DecodeTimeoutError) for outcome in outcomes]
    assert given_up == [True, True, True, False, True, False]
    assert outcomes[3].whole
    assert outcomes[5].whole


CRASHES: dict[str, type[VideoError]] = {
    "segfault": DecodeError,
    "abort": DecodeError,
    "exit": DecodeError,
    "untyped": DecodeError,
    "killed": DecodeMemoryError,
    "memory": DecodeMemoryError,
    "linger": VideoError,
}


@pytest.mark.usefixtures("misbehaving")
def test_crashed_process_costs_one_video(named: Callable[[str], Path], turned_film: Path) -> None:
    def watch(pool: DecodePool, event: object) -> None:
        if isinstance(event, Failed | Restarted):
            # The other process may have died an instant ago and be reported next.
            assert not {pid for pid, state in children().items() if state == "Z"} - set(pool.pids)

    paths = [Path(shutil.copy(turned_film, named(way))) for way in CRASHES]
    with DecodePool(workers=2, timeout_s=TIMEOUT_S) as pool:
        *crashed, a, b = decode_all(pool, [*paths, named("a"), named("b")], on_event=watch)
    for outcome, (way, error) in zip(crashed, CRASHES.items(), strict=True):
        assert isinstance(outcome.error, error), way
        assert f"{way}.mp4" in str(outcome.error)
    assert a.whole
    assert b.whole


@pytest.mark.usefixtures("misbehaving")
def test_pyav_takes_over_where_decord_alone_fails(named: Callable[[str], Path]) -> None:
    pytest.importorskip("decord")
    with DecodePool(workers=1, timeout_s=30) as pool:
        outcomes = decode_all(pool, [named("segfault-decord"), named("untyped-decord")])
    for outcome in outcomes:
        assert outcome.whole
        assert (outcome.attempts, outcome.decoder) == (2, "pyav")


def test_frame_that_decord_refuses_is_passed_over_by_pyav(shared_pool: DecodePool, tmp_path: Path) -> None:
    (outcome,) = decode_all(shared_pool, [make_film(with_bad_frames(50), tmp_path)])
    assert outcome.error is None
    assert (outcome.decoder, outcome.missing) == ("pyav", 1)
    assert outcome.painted == {0: [49 if number == 50 else number for number in range(100)]}


def test_killed_process_costs_at_most_one_video(named: Callable[[str], Path]) -> None:
    killed: list[int] = []

    def kill(pool: DecodePool, event: object) -> None:
        if isinstance(event, DecodedFrame) and not killed:
            killed.extend(pool.pids)
            stop(pool)
            os.kill(killed[0], signal.SIGKILL)

    with DecodePool(workers=1, timeout_s=30) as pool:
        dead, other = decode_all(pool, [named("a"), named("b")], on_event=kill)
        # A process that had read its first film to the end, before it was stopped, costs the second one, or none.
        failed = [outcome for outcome in (dead, other) if outcome.error is not None]
        assert len(failed) <= 1
        assert all(isinstance(outcome.error, DecodeMemoryError) for outcome in failed)
        assert all(outcome.whole for outcome in (dead, other) if outcome not in failed)
        idle = process_end(pool.pids[0])
        os.kill(pool.pids[0], signal.SIGKILL)
        assert idle.wait(10)
        idle.close()
        next_one, last = decode_all(pool, [named("c"), named("d")])
    assert next_one.whole or isinstance(next_one.error, VideoError)
    assert last.whole


@dataclass
class ProcessEnd:
    """Waits for the end of any process, child or not."""

    descriptor: int

    def wait(self, seconds: float) -> bool:
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def close(self) -> None:
        os.close(self.descriptor)


def process_end(pid: int) -> ProcessEnd:
    return ProcessEnd(os.pidfd_open(pid))


def test_pool_that_is_left_by_an_error_ends_its_processes(named: Callable[[str], Path]) -> None:
    def fail(pool: DecodePool, event: object) -> None:
        if isinstance(event, DecodedFrame) and event.number == 5:
            raise KeyboardInterrupt

    descriptors = len(os.listdir("/proc/self/fd"))
    with contextlib.suppress(KeyboardInterrupt), DecodePool(workers=2, timeout_s=30) as pool:
        decode_all(pool, [named("a"), named("b")], on_event=fail)
    assert pool.pids == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


ORPHANS = """
import sys
sys.path[:0] = {path!r}
import misbehaving
from pathlib import Path
from mesm.extractors.decoding import pool as decoding
program = decoding._CHILD_PROGRAM
before, serving = program.split("from mesm", 1)
decoding._CHILD_PROGRAM = before + "import misbehaving; misbehaving.install();from mesm" + serving
import numpy as np
pool = decoding.DecodePool(workers=3, timeout_s=600)
for job, film in enumerate(sys.argv[1:]):
    pool.start(job, Path(film))
waiting = {{0, 1, 2}}
while waiting:
    event = pool.next_event()
    waiting.discard(event.job)
    if isinstance(event, decoding.Probed) and event.job < 2:
        pool.decode(event, [decoding.FrameOutput(None, np.arange(event.info.frame_count))])
print(*pool.pids, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_processes_end_with_a_parent_that_is_killed(named: Callable[[str], Path]) -> None:
    program = ORPHANS.format(path=[str(Path(__file__).parent)])
    films = [named(name) for name in ("hang", "nativehang", "waiting")]
    command = [sys.executable, "-c", program, *map(str, films)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            ends = [process_end(int(pid)) for pid in parent.stdout.readline().split()]
            assert len(ends) == 3
            wait_for(lambda: all(wrong_since(film).exists() for film in films[:2]))
            assert not any(end.wait(0) for end in ends)
        finally:
            parent.kill()
        for end in ends:
            assert end.wait(10)
            end.close()


def wait_for(fact: Callable[[], bool]) -> None:
    """Wait until something is so; fails when that takes too long."""
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)
