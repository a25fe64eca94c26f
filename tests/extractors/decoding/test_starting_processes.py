"""A decode process that cannot be started, or gets no memory, is told of in words, and costs no more than it must."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from media import X264, Film, make_film

from mesm.extractors.decoding import pool as decoding
from mesm.extractors.decoding.events import Finished, Probed
from mesm.extractors.decoding.frame_ring import FrameRing
from mesm.extractors.decoding.pool import DecodePool, FrameOutput
from mesm.extractors.errors import DecodeMemoryError, ExtractorError


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(Film("film.mp4", X264, frames=5), tmp_path_factory.mktemp("film"))


def dying(count: Path, turns: Collection[int]) -> str:
    """Return what a decode process does first: end, when as many as one of `turns` were started before it."""
    return (
        f"import os, sys; n = os.path.getsize({str(count)!r}); open({str(count)!r}, 'a').write('x');"
        f"n in {list(turns)} and (print('no memory', file=sys.stderr, flush=True), os.kill(os.getpid(), 9));"
    )


@pytest.mark.slow
def test_process_that_dies_while_it_begins_is_started_again(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice before the first that works, and twice after that was killed."""
    count = tmp_path / "count"
    count.touch()
    monkeypatch.setattr(decoding, "_CHILD_PROGRAM", dying(count, [0, 1, 3, 4]) + decoding._CHILD_PROGRAM)
    with DecodePool() as pool:
        for job, started in ((0, 3), (1, 6)):
            pool.start(job, film)
            event = pool.next_event()
            assert isinstance(event, Probed)
            pool.decode(event, [FrameOutput(None, event.info.timestamps[:1])])
            while not isinstance(event := pool.next_event(), Finished):
                pass
            assert count.stat().st_size == started
            (pid,) = pool.pids
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_processes_that_never_begin_are_an_error_with_their_words(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "count"
    count.touch()
    monkeypatch.setattr(decoding, "_CHILD_PROGRAM", dying(count, range(100)))
    with DecodePool() as pool:
        pool.start(0, film)
        with pytest.raises(ExtractorError, match=r"^3 decode processes ended before they began.*status -9: no memory"):
            pool.next_event()
    assert count.stat().st_size == decoding.FALSE_STARTS


def test_shared_memory_that_is_not_to_be_had_costs_the_video(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FrameRing, slot_bytes: int) -> int:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(FrameRing, "grow", refuse)
    with DecodePool() as pool:
        pool.start(0, film)
        event = pool.next_event()
        assert isinstance(event, Probed)
        with pytest.raises(
            DecodeMemoryError, match=r"film.mp4: \d+ MiB of shared memory .* File too large; .*ulimit -f"
        ):
            pool.decode(event, [FrameOutput(None, event.info.timestamps[:1])])
        assert not pool.busy


LIMITED = """
import sys
from pathlib import Path
from mesm.extractors.decoding.pool import DecodePool
from mesm.extractors.errors import ExtractorError
try:
    with DecodePool() as pool:
        pool.start(0, Path(sys.argv[1]))
except ExtractorError as error:
    print(error)
"""


def test_limit_on_the_size_of_files_is_named(film: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(film)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.stdout == "no decode process can be started: File too large\n", done.stderr
