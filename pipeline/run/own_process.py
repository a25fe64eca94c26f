"""Doing one thing in a process of its own, so that its memory can be told from that of everything else."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.threads import wait_quietly


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a new process and return what it returns; its errors are raised here.

    The process ends with this one, however that ends, so that nothing goes on writing unseen. Raises PipelineError when
    it dies by itself, as when memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, function, arguments), daemon=True)
    # Until the process ignores Ctrl-C, which takes it until its modules are loaded, it does not hear of it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    sender.close()
    try:
        result, error, place = receiver.recv()
    except EOFError:
        process.join()
        reason = _reason(process.exitcode)
        raise PipelineError(f"the process that does the work died ({reason}); run the same command again") from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if error is not None:
        raise error from RuntimeError(f"in another process:\n{place}")
    return result


def _serve(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call the function and send (result, error, its traceback)."""
    # Ctrl-C reaches every process of a terminal; the parent is the one to answer it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    wait_quietly()
    message: tuple[Any, Exception | None, str]
    try:
        message = function(*arguments), None, ""
    except Exception as error:
        message = None, _portable(error), traceback.format_exc()
    sender.send(message)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """Return the error, or one that says the same where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _reason(exit_code: int | None) -> str:
    """Say how a process ended."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"signal {name}, as when memory runs out" if name == "SIGKILL" else f"signal {name}"
    return f"exit code {exit_code}"
