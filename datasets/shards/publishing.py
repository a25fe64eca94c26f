"""Publishing files so that a reader sees all of a file or none of it, whenever the writer dies.

A file is written under a temporary name in its own folder, flushed to the disk (fsync), given its name by a
hard link (which never overwrites, so two writers cannot take the same name), and the folder is flushed.
Temporary files that dead writers left behind are removed by `remove_stale_temporaries`.

The locks are `flock` itself: filelock has none that writers share, locks no file that is being written, and does not
go on where a file system has no locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.faults import write_point

PUBLISH_STEPS = (
    "before-temp",
    "temp-created",
    "half-written",
    "written",
    "fsynced",
    "renamed",
    "published",
    "temp-removed",
)
"""Write points of one publication, in order; the full name is `<what>:<step>`, such as `shard:fsynced`."""
LOCK_NAME = ".lock"
STALE_AFTER_S = 24 * 3600
_TEMPORARY = re.compile(r"\.tmp-(?P<host>[^@]*)@(?P<pid>\d+)-[0-9a-f]{16}$")
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def write_errors(place: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a FeatureError that says what happened and what to do."""
    try:
        yield
    except OSError as error:
        raise FeatureError(_explain(place, error)) from error


def publish_new(folder: Path, names: Iterable[str], content: bytes, what: str) -> Path | None:
    """Write `content` as one new file of `folder`, under the first of `names` that is free.

    Passes the write points `<what>:<step>` of PUBLISH_STEPS. Returns the file's path, or None when every name
    is taken. Raises FeatureError when the disk is full or the folder cannot be written; nothing is left
    behind then.
    """
    temporary = folder / _temporary_name()
    with write_errors(folder):
        write_point(f"{what}:before-temp")
        try:
            path = _write_and_claim(temporary, folder, names, content, what)
        finally:
            temporary.unlink(missing_ok=True)
        write_point(f"{what}:temp-removed")
    return path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it, and put it in the place of `path` at once.

    Makes the folder when it is not there. Raises FeatureError when the disk is full or the folder cannot be
    written; `path` stays what it was then.
    """
    temporary = path.parent / _temporary_name()
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def _write_and_claim(temporary: Path, folder: Path, names: Iterable[str], content: bytes, what: str) -> Path | None:
    # The descriptor stays open until the name is taken: its lock shows others that the writer lives.
    with open(temporary, "xb", buffering=0) as stream:
        _try_lock(stream.fileno(), fcntl.LOCK_EX, wait=True)
        write_point(f"{what}:temp-created")
        half = len(content) // 2
        _write_all(stream.fileno(), memoryview(content)[:half])
        write_point(f"{what}:half-written")
        _write_all(stream.fileno(), memoryview(content)[half:])
        write_point(f"{what}:written")
        os.fsync(stream.fileno())
        write_point(f"{what}:fsynced")
        path = next((folder / name for name in names if _claim(temporary, folder / name)), None)
        write_point(f"{what}:renamed")
        sync_folder(folder)
        write_point(f"{what}:published")
    return path


def _write_all(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _claim(temporary: Path, path: Path) -> bool:
    """Give the temporary file its name; False when the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _claim_by_renaming(temporary, path)
    return True


def _claim_by_renaming(temporary: Path, path: Path) -> bool:
    """Do the same without hard links, where a lock keeps the other writers of this machine away."""
    with open(path.parent / f"{LOCK_NAME}-rename", "a") as stream:
        _try_lock(stream.fileno(), fcntl.LOCK_EX, wait=True)
        if path.exists():
            return False
        temporary.rename(path)
    return True


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderLock:
    """A lock on a folder that many writers share or one maintainer has alone; it ends with its holder."""

    def __init__(self, folder: Path, *, exclusive: bool) -> None:
        """Take the lock at once, or raise FeatureError when another process holds it in the other manner.

        A file system without locks lets writers pass, who do not need one to stay apart, but no maintainer.
        """
        with write_errors(folder):
            self._stream = open(folder / LOCK_NAME, "a")  # noqa: SIM115 - closed by `close`
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            supported = _try_lock(self._stream.fileno(), kind)
        except BlockingIOError:
            self.close()
            other = "being written by another process" if exclusive else "being compacted or repaired"
            raise FeatureError(f"{folder} is {other}: wait until that has ended, then try again") from None
        if exclusive and not supported:
            self.close()
            raise FeatureError(f"{folder}: this file system has no locks; do this on a copy on a local disk")

    def close(self) -> None:
        """Give the lock back."""
        self._stream.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _try_lock(descriptor: int, kind: int, *, wait: bool = False) -> bool:
    """Lock an open file; False where locks do not exist; BlockingIOError when another holds it."""
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def remove_stale_temporaries(folder: Path) -> list[Path]:
    """Remove temporary files whose writers are dead or that are older than a day, and return them."""
    removed = []
    with write_errors(folder):
        for path in folder.iterdir():
            match = _TEMPORARY.match(path.name)
            if match and _is_stale(path, match["host"], int(match["pid"])):
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def _is_stale(path: Path, host: str, pid: int) -> bool:
    try:
        if time.time() - path.stat().st_mtime > STALE_AFTER_S:
            return True
        return host == _host() and not _is_alive(pid) and not _is_locked(path)
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_locked(path: Path) -> bool:
    # Process numbers say nothing between containers that share a host name; a live writer's lock does.
    with open(path, "rb") as stream:
        try:
            _try_lock(stream.fileno(), fcntl.LOCK_EX)
        except BlockingIOError:
            return True
    return False


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", platform.node())


def _temporary_name() -> str:
    return f".tmp-{_host()}@{os.getpid()}-{secrets.token_hex(8)}"


def _explain(place: Path, error: OSError) -> str:
    what = error.strerror or str(error)
    if error.errno in _FULL:
        return f"{place}: the disk is full ({what}); free some space and run the same command again"
    if error.errno in _UNWRITABLE:
        return f"{place} cannot be written ({what}); choose another folder or change its permissions"
    return f"{place}: {what}"
