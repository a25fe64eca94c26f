"""Read a file of tensors, whatever its container, told by its first bytes rather than by its name.

safetensors, torch checkpoints (both formats), TorchScript archives and C3D's Caffe networks are read without
running anything; plain pickles only when the user trusts them, and then through an unpickler that builds
arrays alone.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from mesm.extractors.errors import WeightsError
from mesm.extractors.weights.caffe import read_network
from mesm.extractors.weights.unpickling import is_torchscript, read_pickled_arrays, read_torchscript

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
        # Mapped where the format allows it: of a tensor that nobody asks for, nothing is read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is not a torch file of tensors alone: {reason}") from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path, trust_pickle: bool) -> Any:
    if not trust_pickle:
        raise WeightsError(
            f"{path} is a pickle, or no file of weights at all; if you trust its source, allow it with "
            "--trust-pickle (it is then read by an unpickler that builds arrays and nothing else)"
        )
    return read_pickled_arrays(path)
