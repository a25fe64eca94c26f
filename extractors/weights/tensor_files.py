"""Read a file of tensors, whatever its container, told by its first bytes rather than by its name.

safetensors, torch checkpoints (both formats), TorchScript archives and C3D's Caffe networks are read without
running anything; plain pickles only when the user trusts them, and then through an unpickler that builds
arrays alone.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from mesm.extractors.errors import WeightsError
from mesm.extractors.weights.caffe import read_network
from mesm.extractors.weights.unpickling import (
    BROKEN_PICKLE,
    is_torchscript,
    read_pickled_arrays,
    read_torchscript,
    unpacked_problem,
)

# torch.save before 1.6 begins with a pickle of this number (torch.serialization.MAGIC_NUMBER).
_LEGACY_TORCH = bytes.fromhex("8a0a6cfc9c46f9206aa85019")

_CAFFE_NAME_FIELD = b"\x0a"


def read_tensor_file(path: Path, trust_pickle: bool) -> Mapping[str, Any]:
    """Return the dictionary that a file of weights holds, as it was released.

    Raises WeightsError when the file is in no known container, is broken, holds something else than a
    dictionary, or is a pickle and `trust_pickle` is False.
    """
    with path.open("rb") as stream:
        head = stream.read(16)
    if zipfile.is_zipfile(path):
        content = read_torchscript(path) if is_torchscript(path) else _read_checkpoint(path)
    elif head[8:9] == b"{":
        content = _read_safetensors(path)
    elif _LEGACY_TORCH in head:
        content = _read_checkpoint(path)
    elif head[:1] == _CAFFE_NAME_FIELD:
        content = read_network(path)
    else:
        content = _read_pickle(path, trust_pickle)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a dictionary of tensors")
    return content


def _read_checkpoint(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path) and (problem := unpacked_problem(path)):
            raise ValueError(problem)
        # Mapped where the format allows it: of a tensor that nobody asks for, nothing is read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (*BROKEN_PICKLE, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} is not a torch file of tensors alone: {torch_reason(path, error)}") from error


def torch_reason(path: Path, error: Exception) -> str:
    """Return why torch could not read a file, in a line, without torch's advice to read it unsafely."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it asks for {named[1]}, which weights do not need"
    if look := other_file(path):
        return look
    lines = [line for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return lines[0].strip() if lines else type(error).__name__


def other_file(path: Path) -> str:
    """Say what a file looks like that was saved in the place of another one; empty when nothing is known of it."""
    with path.open("rb") as stream:
        head = stream.read(64).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; get the file itself by `git lfs pull`"
    if head.startswith(b"<"):
        return "it begins like a web page"
    if head.startswith(b"pk\x03\x04") and not zipfile.is_zipfile(path):
        return "it is a zip archive that was cut short"
    return "" if head else "it is empty"


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path, trust_pickle: bool) -> Any:
    if not trust_pickle:
        if look := other_file(path):
            raise WeightsError(f"{path} is no file of weights: {look}")
        raise WeightsError(
            f"{path} is a pickle, or no file of weights at all; if you trust its source, allow it with "
            "--trust-pickle (it is then read by an unpickler that builds arrays and nothing else)"
        )
    return read_pickled_arrays(path)
