"""A decoder for tests that goes wrong in the way that the film's file name says, in decode processes only.

`films/hang-a.mp4` hangs, and so on by the first word; any other file is read as usual. A `-decord` at the
end of the name keeps the misbehaviour to the decoder of that name. A file beside the film, `wrong_since`,
appears when things go wrong.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.decoding import process as decode_process
from mesm.extractors.decoding.streams import FrameStream, open_stream

AFTER = 10
"""The frame at which things go wrong."""

SLOW_S = 0.03


def hang_in_native_code() -> None:
    """Wait for ever without letting any other Python thread run, as a stuck C library does."""
    while True:
        ctypes.PyDLL(None).pause()


def linger() -> None:
    """Close the connection to the parent but never end, like a library that hangs when it is unloaded."""
    os.closerange(3, 256)
    hang_in_native_code()


def raise_untyped() -> None:
    raise ZeroDivisionError("in the decoder")


def run_out_of_memory() -> None:
    raise MemoryError


def exit_quietly() -> None:
    os._exit(0)


WAYS: dict[str, Callable[[], Any]] = {
    "hang": threading.Event().wait,
    "nativehang": hang_in_native_code,
    "linger": linger,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "untyped": raise_untyped,
    "memory": run_out_of_memory,
    "exit": exit_quietly,
}


class MisbehavingStream(FrameStream):
    """The frames of another stream, until things go wrong."""

    def __init__(self, inner: FrameStream, go_wrong: Callable[[], Any], every_frame: bool) -> None:
        super().__init__(inner.info)
        self.decoder = inner.decoder
        self._inner = inner
        self._go_wrong = go_wrong
        self._every_frame = every_frame

    def pictures(self, wanted: Collection[int] | None = None) -> Iterator[tuple[int, Any]]:
        """Yield what the other stream yields, and go wrong."""
        for number, picture in self._inner.pictures(wanted):
            if self._every_frame or number == AFTER:
                wrong_since(self.info.path).touch()
                self._go_wrong()
            yield number, picture

    def close(self) -> None:
        """Release the file."""
        self._inner.close()


def wrong_since(film: Path) -> Path:
    """Return the file that appears when things go wrong with a film."""
    return film.with_suffix(".wrong")


def open_misbehaving(info: VideoInfo, threads: int = 1) -> FrameStream:
    """Open a stream that goes wrong as the file's name says."""
    inner = open_stream(info, threads)
    way, _, rest = info.path.stem.partition("-")
    if rest.endswith("decord") and inner.decoder != "decord":
        return inner
    if way == "slow":
        return MisbehavingStream(inner, lambda: time.sleep(SLOW_S), every_frame=True)
    return MisbehavingStream(inner, WAYS[way], every_frame=False) if way in WAYS else inner


def install() -> None:
    """Have this decode process use `open_misbehaving`."""
    decode_process.open_stream = open_misbehaving
