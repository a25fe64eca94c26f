"""The child's side of `decoding.DecodePool`: measure and decode videos, one by one, until the parent is gone.

What passes between the two, as pickled tuples (both ends are this program; nothing is read from outside):

    parent  ("open", path, decoder or None)
    child   ("probed", VideoInfo, SourceFile)
    parent  ("decode", outputs, threads, slots, slot_bytes) or ("dismiss",)
    child   ("frame", output, number, slot, shape), each answered by ("free", slot)
    child   ("finished", decoder, missing) or ("dismissed",), or at any time ("failed", kind, text)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Collection, Generator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import av
import numpy as np
import torch

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.decoding.events import FrameOutput
from mesm.extractors.decoding.frame_ring import FrameRing
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.resizing import apply_transform, scaled_size
from mesm.extractors.decoding.source_file import SourceFile
from mesm.extractors.decoding.streams import FrameStream, Picture, open_stream
from mesm.extractors.errors import DecodeError, DecodeMemoryError, VideoError

PICTURES_AHEAD = 16
"""Most pictures that are decoded while an earlier one is converted; a decoder gives several at a time, then none."""

AHEAD_BYTES = 64 * 2**20
"""About the most memory of these pictures, in 8 bits with half the colours, unless `LEAST_AHEAD` need more."""

LEAST_AHEAD = 2

_PR_SET_PDEATHSIG = 1


def serve(connection_descriptor: int, ring_descriptor: int, parent: int) -> None:
    """Work for the parent process until it closes the connection or ends."""
    end_with_parent(parent)
    torch.set_num_threads(1)
    av.logging.set_level(av.logging.PANIC)
    ring = FrameRing(ring_descriptor)
    connection = Connection(connection_descriptor)
    connection.send(("ready",))
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        # Slots of the video before may still come back.
        if message[0] == "open":
            ring.beat()
            connection.send(_attempt(connection, ring, message[1], message[2]))


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _attempt(connection: Connection, ring: FrameRing, path: Path, decoder: str | None) -> tuple[object, ...]:
    """Do one video and return the closing message. Whatever goes wrong is the parent's to report."""
    try:
        return _Decoding(connection, ring, path, decoder).run()
    except VideoError as error:
        return ("failed", type(error).__name__, str(error))
    except MemoryError:
        return ("failed", DecodeMemoryError.__name__, f"{path}: no memory is left to decode it")
    except Exception as error:
        return ("failed", DecodeError.__name__, f"{path}: {type(error).__name__}: {error}")


class _Decoding:
    """One video: the file must be the same one from its probe to its last frame."""

    def __init__(self, connection: Connection, ring: FrameRing, path: Path, decoder: str | None) -> None:
        self._connection = connection
        self._ring = ring
        self._path = path
        self._decoder = decoder
        self._free: list[int] = []

    def run(self) -> tuple[object, ...]:
        source = SourceFile.of(self._path).hashed(self._ring.beat)
        info = probe(self._path, self._ring.beat)
        if self._decoder is not None:
            info = replace(info, decoder=self._decoder)
        self._connection.send(("probed", info, source))
        answer = self._receive()
        if answer[0] == "dismiss":
            return ("dismissed",)
        _, outputs, threads, slots, slot_bytes = answer
        self._ring.lay_out(slot_bytes)
        self._free = list(range(slots))
        closing = self._decode(info, outputs, threads)
        source.refuse_changed()
        return closing

    def _decode(self, info: VideoInfo, outputs: Sequence[FrameOutput], threads: int) -> tuple[object, ...]:
        if any(output.transform is not None and output.transform.resize == "swscale" for output in outputs):
            info = replace(info, decoder="pyav")
        users = _users(outputs)
        with open_stream(info, threads) as stream:
            with contextlib.closing(_read_ahead(stream, users.keys(), self._ring)) as pictures:
                for number, picture in pictures:
                    self._hand_back(info, outputs, users[number], number, picture)
            return ("finished", stream.decoder, stream.missing)

    def _hand_back(
        self,
        info: VideoInfo,
        outputs: Sequence[FrameOutput],
        users: Sequence[int],
        number: int,
        picture: Picture,
    ) -> None:
        full: np.ndarray | None = None
        for user in users:
            transform = outputs[user].transform
            if transform is not None and transform.resize == "swscale":
                pixels = picture.scaled(*scaled_size(info.height, info.width, transform))
            else:
                pixels = full = picture.rgb() if full is None else full
            if transform is not None:
                pixels = apply_transform(pixels[None], transform)[0].numpy()
            slot = self._take_slot()
            self._ring.slot(slot, pixels.shape)[:] = pixels
            self._connection.send(("frame", user, number, slot, pixels.shape))

    def _take_slot(self) -> int:
        while not self._free:
            self._free.append(self._receive()[1])
        return self._free.pop()

    def _receive(self) -> tuple[Any, ...]:
        try:
            message: tuple[Any, ...] = self._connection.recv()
        except EOFError:
            # The parent is gone; there is nobody left to tell.
            os._exit(0)
        self._ring.beat()
        return message


def _read_ahead(
    stream: FrameStream, wanted: Collection[int], ring: FrameRing
) -> Generator[tuple[int, Picture], None, None]:
    """Yield the wanted pictures while a thread decodes the next ones: converting and scaling take as long."""
    size = stream.info.width * stream.info.height * 3 // 2
    most = min(max(AHEAD_BYTES // size, LEAST_AHEAD), PICTURES_AHEAD)
    ahead: Queue[tuple[int, Picture] | BaseException | None] = Queue(maxsize=most)
    left = threading.Event()

    def decode() -> None:
        try:
            for number, picture in stream.pictures(wanted):
                ring.beat()
                if left.is_set():
                    return
                if picture is not None:
                    ahead.put((number, picture))
            ahead.put(None)
        except BaseException as error:
            ahead.put(error)

    thread = threading.Thread(target=decode, daemon=True)
    thread.start()
    try:
        while (item := ahead.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        while thread.is_alive():
            with contextlib.suppress(Empty):
                ahead.get(timeout=0.01)
        thread.join()


def _users(outputs: Sequence[FrameOutput]) -> dict[int, list[int]]:
    """Return for each wanted frame which outputs want it."""
    users: dict[int, list[int]] = {}
    for position, output in enumerate(outputs):
        for number in output.wanted.tolist():
            users.setdefault(number, []).append(position)
    return users
