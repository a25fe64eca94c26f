"""What Ctrl-C, and the signals by which schedulers end a program, do at every moment, also while modules load."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

MESSAGE = "interrupted; run the same command again to go on"
_received: signal.Signals | None = None


def answer_interrupts() -> None:
    """Take SIGINT, SIGTERM and SIGHUP for a wish to end tidily. For programs, before they import anything large.

    A signal that the caller ignores, as `nohup` does, stays ignored; under torchrun, which ends its processes itself,
    only SIGINT is taken.
    """
    signals = [signal.SIGINT] if "WORLD_SIZE" in os.environ else [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    for number in signals:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def exit_code() -> int:
    """Return the code that a program ends with which was interrupted: 130 after Ctrl-C, as shells have it."""
    return 128 + (_received or signal.SIGINT)


def leave(code: int) -> NoReturn:
    """Exit with a code.

    After an interrupt without Python's own way out: that ends by the signal where the interrupt has passed through a
    text that Python ran, as dataclasses have it run, whoever caught it then.
    """
    if _received is None:
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def _end(number: int, frame: FrameType | None) -> None:
    global _received
    _received = signal.Signals(number)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            # While a module of another language is loaded, no exception finds its way: it ends the process badly.
            os.write(2, f"{MESSAGE}\n".encode())
            os._exit(exit_code())
        frame = frame.f_back
    raise KeyboardInterrupt
