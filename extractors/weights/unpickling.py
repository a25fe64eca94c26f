"""Read pickled arrays and TorchScript archives without running anything that is inside them.

Python's pickle calls whatever a file names. The unpicklers here look names up in a short table instead of
importing them, and what the table gives out are stand-ins of our own, never numpy's or torch's classes: these take a
state from the file and believe it, down to the flags by which memory is read as addresses of objects. So a file can
build arrays of numbers, tensors, dictionaries and numbers, and nothing else, and no more of them than it has bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
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

BROKEN_PICKLE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What unpickling raises for bytes that are no pickle, or one that asks for what it may not have."""

_NUMBER_KINDS = "biufcSU"
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_UNPACKED_SHARE, _UNPACKED_BASE = 4, 16 * 1024**2
_MOST_MODULES = 100_000
_LARGEST_REPEATED = 2 * 1024**3
"""Bytes of tensors that repeat a number by a step of zero; no network here has as many."""


class _Function:
    """A function that a pickle may call, and do nothing else with."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it gives a state to a function")


class _Dictionary(dict[Any, Any]):
    """Stands for OrderedDict; attributes that a file hangs on it, which would hide its methods, are dropped."""

    def __setstate__(self, state: object) -> None:
        pass


class _Dtype:
    """Stands for numpy.dtype: plain numbers or texts, and of its state the byte order alone."""

    def __init__(self, code: Any) -> None:
        found = np.dtype(code) if isinstance(code, str) else None
        if found is None or found.kind not in _NUMBER_KINDS or found.names or found.subdtype:
            raise pickle.UnpicklingError(f"it asks for an array of {str(code)[:40]!r}; expected plain numbers")
        self.numpy = found

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *parts = state
        if any(part is not None for part in parts[:3]):
            raise pickle.UnpicklingError("it asks for an array with fields; expected plain numbers")
        if order != "|":
            self.numpy = self.numpy.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose state is looked at before numpy takes it."""

    budget: _Budget | None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, raw = state[-4:]
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        if self.budget is None or not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("it holds an array that is not of plain numbers")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.numpy.itemsize != len(content):
            raise pickle.UnpicklingError(f"it announces an array {shape} and has {len(content)} bytes of it")
        self.budget.take(len(content))
        self.budget = None
        plain: Any = (1, tuple(shape), dtype.numpy, bool(fortran), content)
        super().__setstate__(plain)


class _Budget:
    """Twice the bytes that a file has, as text becomes bytes and these an array; more was made of one thing twice."""

    def __init__(self, size: int) -> None:
        self.left = 2 * size

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise pickle.UnpicklingError("it asks for more memory than it has bytes")


_NDARRAY = object()
"""Stands for the class numpy.ndarray, which is only ever named."""


def _array_globals(budget: _Budget) -> dict[tuple[str, str], Any]:
    """Return what a file may name, by module and name."""

    def encode(text: str, encoding: str = "latin1") -> bytes:
        # Python 3 writes bytes so into pickles of protocol 2.
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}; expected latin1")
        budget.take(len(text))
        return text.encode("latin1")

    def reconstruct(kind: object, _shape: object, _code: object) -> np.ndarray:
        if kind is not _NDARRAY:
            raise pickle.UnpicklingError("it asks for an array of another class than numpy's")
        array = np.ndarray.__new__(_Array, (0,))
        array.budget = budget
        return array

    def scalar(dtype: _Dtype, raw: str | bytes) -> Any:
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _Dtype) or dtype.numpy.itemsize != len(content):
            raise pickle.UnpicklingError("it holds a number that is none")
        return np.frombuffer(content, dtype.numpy)[0]

    def dictionary(items: Any = ()) -> _Dictionary:
        budget.take(len(items))
        return _Dictionary(items)

    found: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _Function(dictionary),
        ("_codecs", "encode"): _Function(encode),
        ("numpy", "ndarray"): _NDARRAY,
        ("numpy", "dtype"): _Function(lambda code, *_: _Dtype(code)),
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        found[module, "_reconstruct"] = _Function(reconstruct)
        found[module, "scalar"] = _Function(scalar)
    return found


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that builds numpy arrays in dictionaries and lists, and refuses every other name."""

    def __init__(self, content: bytes) -> None:
        """Read a pickle; Python 2's text is taken as latin1."""
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._globals = _array_globals(_Budget(len(content)))

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the table of what arrays need; raises pickle.UnpicklingError for any other."""
        try:
            return self._globals[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need") from None


def _check_numbers(content: bytes) -> None:
    """Raise UnpicklingError for a place in the unpickler's memory that no pickler would have come to.

    The unpickler makes room for every place below it: gigabytes, for a file of ten bytes.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in _PUTS and (not isinstance(argument, int) or argument > count):
            raise pickle.UnpicklingError(f"it asks for room for {argument} objects and has made {count}")


def read_pickled_arrays(path: Path) -> Any:
    """Return the first object of a pickle, Python 2's text read as latin1. Raises WeightsError."""
    try:
        content = path.read_bytes()
        _check_numbers(content)
        return ArrayUnpickler(content).load()
    except BROKEN_PICKLE as error:
        raise WeightsError(f"{path} is not a pickle of arrays: {error or type(error).__name__}") from error


class ScriptObject:
    """A module of a TorchScript archive: its attributes, without its code."""

    def __setstate__(self, state: Any) -> None:
        """Take attributes by name; a class, which a file can name as well, takes none."""
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"a module's attributes are a {type(state).__name__}; expected a dictionary")
        self.__dict__.update(state)


class _ArchiveUnpickler(pickle.Unpickler):
    """Rebuild a TorchScript archive's modules as plain objects, tensors from the archive's own storages."""

    def __init__(self, content: bytes, read_storage: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(content))
        self._read_storage = read_storage
        self._storages: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        budget = _Budget(len(content))

        def dictionary(items: Any = ()) -> _Dictionary:
            budget.take(len(items))
            return _Dictionary(items)

        self._dictionary = _Function(dictionary)

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return ScriptObject
        if module == "torch" and name in _STORAGE_TYPES:
            return _STORAGE_TYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Function(_rebuild_tensor)
        if (module, name) == ("collections", "OrderedDict"):
            return self._dictionary
        if module == "torch.jit._pickle":
            return _Function(_plain_value)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, count = pid
        if not count:
            return torch.empty(0, dtype=dtype)
        # A file that names a storage a thousand times would otherwise have it a thousand times.
        if (key, dtype) not in self._storages:
            content = bytearray(self._read_storage(key))
            self._storages[key, dtype] = torch.frombuffer(content, dtype=dtype, count=count)
        return self._storages[key, dtype]


def _plain_value(value: Any, _type: str = "") -> Any:
    """Stand in for the tags that TorchScript puts around typed lists and dictionaries."""
    return value


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: Any
) -> torch.Tensor:
    """Cut a tensor out of its storage; torch checks that it lies inside."""
    return storage.as_strided(size, stride, offset)


def tensors_problem(tensors: Mapping[str, torch.Tensor]) -> str:
    """Say why tensors of a file cannot be taken as they are; empty when they can.

    A step of zero makes a tensor of any size out of one number, until somebody copies it.
    """
    odd = [name for name, t in tensors.items() if t.layout is not torch.strided or t.device.type != "cpu"]
    if odd:
        return f"{odd[0]} is a tensor of another kind than plain numbers"
    announced = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if announced > max(_LARGEST_REPEATED, sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())):
        return f"its tensors announce {announced:,} bytes, and it has fewer of them"
    return ""


def unpacked_problem(path: Path) -> str:
    """Say that the parts of a zip archive announce far more bytes than it has; empty when they do not.

    Files of tensors are stored as they are: only a few small parts are packed at all. OSError and BadZipFile for a file
    that is none.
    """
    with zipfile.ZipFile(path) as archive:
        announced, size = sum(part.file_size for part in archive.infolist()), path.stat().st_size
    if announced <= _UNPACKED_SHARE * size + _UNPACKED_BASE:
        return ""
    return f"its {size:,} bytes unpack to {announced:,}; expected tensors, which are stored as they are"


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is a TorchScript archive: a zip that holds constants, which checkpoints do not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Return a TorchScript archive's parameters and buffers by dotted name; its code is not run.

    Raises WeightsError when the archive is broken, or would unpack to far more than it is.
    """
    try:
        if problem := unpacked_problem(path):
            raise pickle.UnpicklingError(problem)
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl"))[: -len("data.pkl")]
            content = archive.read(f"{root}data.pkl")
            _check_numbers(content)
            module = _ArchiveUnpickler(content, lambda key: archive.read(f"{root}data/{key}")).load()
        return dict(_tensors(module))
    except (*BROKEN_PICKLE, StopIteration, zipfile.BadZipFile, OSError) as error:
        raise WeightsError(f"{path} is not a readable TorchScript archive: {error or type(error).__name__}") from error


def _tensors(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a module and of those below it, by dotted name."""
    waiting = [("", module)]
    for _ in range(_MOST_MODULES):
        if not waiting:
            return
        prefix, module = waiting.pop()
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, ScriptObject):
                waiting.append((f"{prefix}{name}.", value))
    raise pickle.UnpicklingError(f"it holds more than {_MOST_MODULES} modules inside one another")
