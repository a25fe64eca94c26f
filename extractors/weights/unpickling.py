"""Read pickled arrays and TorchScript archives without running anything that is inside them.

Python's pickle calls whatever a file names. The unpicklers here look names up in a short table instead of
importing them, so that a file can build arrays, tensors, dictionaries and numbers, and nothing else.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from mesm.extractors.errors import WeightsError

_STORAGE_TYPES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
}

_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes into pickles of protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}; expected latin1")
    return text.encode("latin1")


def _array_globals() -> Mapping[tuple[str, str], Any]:
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    found: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _latin1_bytes,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        found[module, "_reconstruct"] = reconstruct
        found[module, "scalar"] = scalar
    return MappingProxyType(found)


_ARRAY_GLOBALS = _array_globals()


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that builds numpy arrays in dictionaries and lists, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the table of what arrays need; raises pickle.UnpicklingError for any other."""
        try:
            return _ARRAY_GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need") from None


def read_pickled_arrays(path: Path) -> Any:
    """Return the first object of a pickle, Python 2's text read as latin1. Raises WeightsError."""
    try:
        with path.open("rb") as stream:
            return ArrayUnpickler(stream, encoding="latin1").load()
    except _BROKEN_PICKLE as error:
        raise WeightsError(f"{path} is not a pickle of arrays: {error}") from error


class ScriptObject:
    """A module of a TorchScript archive: its attributes, without its code."""


class _ArchiveUnpickler(pickle.Unpickler):
    """Rebuild a TorchScript archive's modules as plain objects, tensors from the archive's own storages."""

    def __init__(self, stream: io.BytesIO, read_storage: Callable[[str], bytes]) -> None:
        super().__init__(stream)
        self._read_storage = read_storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return ScriptObject
        if module == "torch" and name in _STORAGE_TYPES:
            return _STORAGE_TYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":
            return _plain_value
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, count = pid
        content = self._read_storage(key)
        if not count:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(content), dtype=dtype, count=count)


def _plain_value(value: Any, _type: str = "") -> Any:
    """Stand in for the tags that TorchScript puts around typed lists and dictionaries."""
    return value


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: Any
) -> torch.Tensor:
    """Cut a tensor out of its storage; torch checks that it lies inside."""
    return storage.as_strided(size, stride, offset)


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is a TorchScript archive: a zip that holds constants, which checkpoints do not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Return a TorchScript archive's parameters and buffers by dotted name; its code is not run.

    Raises WeightsError when the archive is broken.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl"))[: -len("data.pkl")]
            content = io.BytesIO(archive.read(f"{root}data.pkl"))
            module = _ArchiveUnpickler(content, lambda key: archive.read(f"{root}data/{key}")).load()
    except (*_BROKEN_PICKLE, StopIteration, zipfile.BadZipFile, OSError) as error:
        raise WeightsError(f"{path} is not a readable TorchScript archive: {error}") from error
    return dict(_tensors(module, ""))


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, ScriptObject):
            yield from _tensors(value, f"{prefix}{name}.")
