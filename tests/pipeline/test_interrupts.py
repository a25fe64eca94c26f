"""Ctrl-C and the signals of schedulers at any moment: one line, the right code, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

AS_FROM_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""
"""A test that runs in the background, or under nohup, hands down that signals are ignored."""

HOOK = """
import os, signal, sys

class Here:
    # Sends the signal at the moment at which a module is looked for.
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
        return None

sys.argv = ["mesm-pipeline", *{arguments!r}]
sys.meta_path.insert(0, Here())
from mesm.pipeline.__main__ import main
main()
"""

EXEC = """
import os, signal
import mesm.pipeline.cli as cli

def interrupted(arguments):
    try:
        exec("os.kill(os.getpid(), signal.SIGINT)\\nfor _ in range(10**6): pass", {"os": os, "signal": signal})
    except KeyboardInterrupt:
        return cli._interrupted()

cli.run = interrupted
cli.main()
"""


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    program = AS_FROM_A_TERMINAL + program
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["typer", "mesm.pipeline.config.load", "yaml", "torch", "numpy"])
def test_an_interrupt_while_modules_load_is_one_line(tmp_path: Path, module: str) -> None:
    arguments = ["train", "--out", str(tmp_path / "run"), "--config", "demo", "--annotations", str(tmp_path)]
    done = run_program(HOOK.format(module=module, number=int(signal.SIGINT), arguments=arguments))
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted; run the same command again to go on\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_end_as_tidily(tmp_path: Path, number: int, code: int) -> None:
    arguments = ["configs", "demo"]
    done = run_program(HOOK.format(module="yaml", number=int(number), arguments=arguments))
    assert done.returncode == code
    assert done.stderr == "interrupted; run the same command again to go on\n"


def test_an_interrupt_inside_a_text_that_is_run_has_the_same_code() -> None:
    done = run_program(EXEC)
    assert (done.returncode, done.stderr) == (130, "interrupted; run the same command again to go on\n")


def test_a_signal_that_is_ignored_stays_so() -> None:
    program = (
        "import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from mesm.pipeline.run.interrupts import answer_interrupts\nanswer_interrupts()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\nprint('alive')"
    )
    assert run_program(program).stdout == "alive\n"
