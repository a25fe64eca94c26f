"""Download a file so that it is there whole and checked, or not at all."""

from __future__ import annotations

import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from filelock import FileLock

from mesm.extractors.errors import WeightsError

TIMEOUT_S = 30.0
"""Seconds without a byte after which a connection is given up."""

_AGENT = {"User-Agent": "mesm-pipeline"}
_BLOCK = 1 << 18
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE = 206, 416


class Progress(Protocol):
    """Hears how far a download is."""

    def __call__(self, done: int, total: int | None) -> None:
        """Take the bytes that are there, and how many there will be, if the server said so."""


def download(
    url: str,
    destination: Path,
    verify: Callable[[Path], list[str]],
    progress: Progress | None = None,
) -> None:
    """Fetch a URL into a file, which appears under its name only when complete and verified.

    What an interrupted download left (`NAME.part`) is continued if the server still has the same file.
    `verify` returns what is wrong with the bytes. Several processes may ask for one file: one fetches, the
    others wait; the lock of one that was killed is free. Raises WeightsError when the file cannot be had.
    """
    if not url.startswith(("https://", "http://")):
        raise WeightsError(f"{url} is not an address that is downloaded from; expected https:// or http://")
    partial = destination.with_name(destination.name + ".part")
    try:
        with locked(destination), open(partial, "a+b", opener=_open_no_link) as stream:
            if destination.exists():
                partial.unlink()
                return
            _fetch(url, stream, _Version(partial), progress)
            _publish(stream, partial, destination, verify)
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(f"could not download {url} to {destination}: {error}") from error


@contextlib.contextmanager
def locked(destination: Path) -> Iterator[None]:
    """Let one process at a time make a file; OSError when its folder cannot be written, or a link lies there.

    A cache may be one that others write to: what a link leads to is never opened.
    """
    lock = destination.with_name(destination.name + ".lock")
    destination.parent.mkdir(parents=True, exist_ok=True)
    if lock.is_symlink():
        raise OSError(f"{lock} is a link; remove it")
    with FileLock(lock):
        yield


def _open_no_link(path: str, flags: int) -> int:
    """Open a file, but not what a link in its place leads to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


class _Version:
    """Which version of the remote file a partial download belongs to: its ETag or date, kept beside it."""

    def __init__(self, partial: Path) -> None:
        self.path = partial.with_name(partial.name + ".version")

    def read(self) -> str:
        if not self.path.exists():
            return ""
        with open(self.path, encoding="latin1", opener=_open_no_link) as stream:
            return stream.read()

    def write(self, headers: http.client.HTTPMessage) -> None:
        etag = headers.get("ETag", "")
        strong = "" if etag.startswith("W/") else etag
        with open(self.path, "w", encoding="latin1", opener=_open_no_link) as stream:
            stream.write(strong or headers.get("Last-Modified", ""))


def _fetch(url: str, stream: BinaryIO, version: _Version, progress: Progress | None) -> None:
    request = urllib.request.Request(url, headers=_AGENT)
    start = stream.seek(0, os.SEEK_END)
    known = version.read()
    if start and known:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", known)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE:
            raise
        stream.truncate(0)
        response = urllib.request.urlopen(urllib.request.Request(url, headers=_AGENT), timeout=TIMEOUT_S)
    with response:
        if response.headers.get_content_type() == "text/html":
            raise OSError("the server sent a web page instead of the file")
        if response.status != _PARTIAL_CONTENT:
            stream.truncate(0)
            version.write(response.headers)
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise OSError(f"asked for the bytes from {start} on and got {response.headers['Content-Range']!r}")
        _copy(response, stream, progress)


def _copy(response: http.client.HTTPResponse, stream: BinaryIO, progress: Progress | None) -> None:
    done = stream.seek(0, os.SEEK_END)
    length = response.headers.get("Content-Length")
    total = done + int(length) if length is not None else None
    while block := response.read(_BLOCK):
        stream.write(block)
        done += len(block)
        if progress is not None:
            progress(done, total)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes; the same command continues there")


def _publish(stream: BinaryIO, partial: Path, destination: Path, verify: Callable[[Path], list[str]]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
    problems = verify(partial)
    _Version(partial).path.unlink(missing_ok=True)
    if problems:
        partial.unlink()
        raise OSError("; ".join(problems))
    os.replace(partial, destination)
    folder = os.open(destination.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
