"""A job on a disk that is full before it is done, and again after there is room."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from mesm.tools.attacks.processes import function

WORK, JUDGE = "mesm.tools.attacks.jobs:work", "mesm.tools.attacks.jobs:judge"
ROOM = "512m"
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
"""Of unshare: a table of mounts of our own, and a table of users in which this one may mount."""


def has_own_disk() -> int:
    """Exit code 0 where a process may give itself a small disk (tmpfs) that nobody else sees."""
    return 0 if _enter_own_mounts() else 1


def squeeze(job: str, material: str, out: str, kibibytes: int, results: str) -> int:
    """Do a job on a disk of so many KiB, then again with room; returns the code of the first.

    results: a folder for `first.txt` and `second.txt`, what the two printed, and `found.json`, as `judge` writes it.
    Exit code 99 when the second one fails.
    """
    if not _enter_own_mounts():
        return 98
    Path(out).mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kibibytes}k", "mesm-torture", out)
    first = _apart(job, material, out, f"{results}/first.txt")
    _mount("-o", f"remount,size={ROOM}", out)
    if _apart(job, material, out, f"{results}/second.txt"):
        return 99
    function(JUDGE)(job, out, f"{results}/found.json")
    return first


def _apart(job: str, material: str, out: str, output: str) -> int:
    """Do a job in a process of its own, in the same mounts."""
    process = os.fork()
    if process == 0:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = 1
        try:
            code = function(WORK)(job, material, out)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _enter_own_mounts() -> bool:
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(_NEW_MOUNTS if user == 0 else _NEW_MOUNTS | _NEW_USERS):
        return False
    if user:
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        except OSError:
            return False
    # Nothing of what is mounted from here on is to be seen outside.
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode == 0


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
