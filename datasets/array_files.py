"""Arrays in npy and npz files, looked at before they are read: to announce a terabyte takes a hundred bytes."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

LARGEST_ARRAY = 512 * 1024**2
"""Bytes of the largest array of one video that is read: 18 hours of a row of 2048 numbers a second."""

BROKEN_ARRAY = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,
    MemoryError,
    TypeError,
    AttributeError,
    ArithmeticError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What numpy, zipfile and h5py raise for damaged files of arrays."""


def check_announced(shape: tuple[int, ...], dtype: np.dtype, largest: int = LARGEST_ARRAY) -> int:
    """Return the bytes that an array of this shape takes; ValueError when they are more than `largest`."""
    size = math.prod(shape) * dtype.itemsize
    if size > largest:
        raise ValueError(f"it announces an array {shape} of {size:,} bytes; expected at most {largest:,}")
    return size


def npy_shape(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and dtype that an npy file announces; raises one of BROKEN_ARRAY."""
    with path.open("rb") as stream:
        return _header(stream)


def npz_shape(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and dtype of an array of an npz file; raises one of BROKEN_ARRAY."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        return _header(member)


def read_npy(path: Path, largest: int = LARGEST_ARRAY) -> np.ndarray:
    """Read an npy file of plain values; raises one of BROKEN_ARRAY before memory is taken that it cannot fill."""
    with path.open("rb") as stream:
        return _read(stream, path.stat().st_size, largest)


def read_npz(path: Path, name: str, largest: int = LARGEST_ARRAY) -> np.ndarray:
    """Read one array of an npz file, as `read_npy`; KeyError when there is none of this name."""
    with zipfile.ZipFile(path) as archive:
        part = archive.getinfo(f"{name}.npy")
        with archive.open(part) as member:
            return _read(member, part.file_size, largest)


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays of an npz file; raises one of BROKEN_ARRAY."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"npy format {version} is not known")
    shape, _, dtype = readers[version](stream)
    return tuple(shape), dtype


def _read(stream: IO[bytes], size: int, largest: int) -> np.ndarray:
    shape, dtype = _header(stream)
    announced, held = check_announced(shape, dtype, largest), size - stream.tell()
    if announced > held and not dtype.hasobject:
        raise ValueError(f"it announces an array {shape} of {announced:,} bytes and holds {held:,}")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)
