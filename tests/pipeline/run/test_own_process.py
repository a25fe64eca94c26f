"""A process of its own gives back results and errors, ends with the one that started it, and its memory is its own."""

from __future__ import annotations

import multiprocessing.context
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from mesm.pipeline.config.errors import ConfigError, PipelineError
from mesm.pipeline.run.memory import peak_memory_bytes
from mesm.pipeline.run.own_process import in_own_process

MIB = 2**20
CPU = torch.device("cpu")


class UnsendableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def process_number() -> int:
    return os.getpid()


def refuse(kind: type[Exception], *texts: str) -> None:
    raise kind(*texts)


def die(how: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL) if how == "killed" else os._exit(3)


def peak_after_filling(mebibytes: int) -> int:
    np.ones(mebibytes * MIB, np.uint8)
    return peak_memory_bytes(CPU)


def linger(file: Path) -> None:
    file.write_text("here")
    threading.Event().wait(60)
    os.write(1, b"still here")


def test_the_result_comes_from_another_process() -> None:
    assert in_own_process(process_number) not in (None, os.getpid())


def test_errors_are_raised_here_and_keep_their_type() -> None:
    with pytest.raises(ConfigError, match="a mistake") as found:
        in_own_process(refuse, ConfigError, "a mistake")
    assert "in refuse" in str(found.value.__cause__)
    with pytest.raises(RuntimeError, match="UnsendableError: one and two"):
        in_own_process(refuse, UnsendableError, "one", "two")


@pytest.mark.parametrize(("how", "words"), [("killed", "signal SIGKILL"), ("left", "exit code 3")])
def test_a_process_that_dies_is_an_error_that_says_how(how: str, words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        in_own_process(die, how)


@pytest.mark.slow
def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_own_process import linger\n"
        "from mesm.pipeline.run.own_process import in_own_process\n"
        "if __name__ == '__main__':\n"
        "    in_own_process(linger, Path(sys.argv[1]))\n"
    )
    script, file = tmp_path / "parent.py", tmp_path / "begun"
    script.write_text(program)
    parent = subprocess.Popen([sys.executable, str(script), str(file)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    while not file.exists():
        assert parent.poll() is None
    parent.kill()
    # The other end of this pipe is held by both: it comes to its end when both are gone.
    assert parent.stdout.read() == b""
    parent.wait()


@pytest.mark.slow
def test_peak_memory_is_that_of_the_process_alone() -> None:
    small, large = in_own_process(peak_after_filling, 0), in_own_process(peak_after_filling, 300)
    assert 290 * MIB < large - small < 310 * MIB
    here = peak_after_filling(large // MIB)
    assert here > large
    assert in_own_process(peak_after_filling, 0) < small + 20 * MIB


def signals_that_are_held() -> tuple[bool, bool]:
    """Whether Ctrl-C is ignored here, and whether it is held back."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return ignored, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_ctrl_c_is_the_parents_from_the_first_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    start = multiprocessing.context.SpawnProcess.start

    def watched(self: multiprocessing.context.SpawnProcess) -> None:
        seen.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set()))
        start(self)

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", watched)
    assert in_own_process(signals_that_are_held) == (True, False)
    assert seen == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
