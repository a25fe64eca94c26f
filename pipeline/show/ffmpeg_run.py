"""Running ffmpeg, kept to the files that it is given."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from mesm.extractors.decoding.containers import CONTAINERS
from mesm.extractors.decoding.process import end_with_parent
from mesm.pipeline.config.errors import PipelineError

GUARDS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
"""Options of every input: nothing but files, and no format that makes one film of others."""


class CutError(PipelineError):
    """A moment cannot be cut out of its film."""


def open_input(path: Path, **options: Any) -> Any:
    """Return the ffmpeg node of a film.

    The name is given as an absolute path after `file:`, so that nothing in it is taken for an option or an address.
    """
    return ffmpeg.input(file_argument(path), **GUARDS, **options)


def file_argument(path: Path) -> str:
    """Return a file's address for ffmpeg-python, which cannot hold names that are no Unicode: a character a byte."""
    return "file:" + os.fsencode(os.path.abspath(path)).decode("latin-1")


def run(output: Any, about: Path, timeout_s: float | None = None) -> None:
    """Run what an output node of ffmpeg-python describes; CutError with ffmpeg's last words, naming `about`.

    The output is overwritten: give a temporary file. After `timeout_s` ffmpeg is ended, which is a CutError, too.
    """
    _, *arguments = ffmpeg.compile(output.global_args("-nostdin", "-v", "error"), overwrite_output=True)
    command = [os.fsencode(imageio_ffmpeg.get_ffmpeg_exe()), *(one.encode("latin-1") for one in arguments)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            preexec_fn=partial(end_with_parent, os.getpid()),
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise CutError(f"{about}: ffmpeg took more than {timeout_s:g} s, and was ended") from error
    except OSError as error:
        raise CutError(f"{about}: ffmpeg cannot be started: {error.strerror or error}") from error
    if done.returncode:
        said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        raise CutError(f"{about}: ffmpeg could not write this moment: {'; '.join(said[-3:]) or done.returncode}")
