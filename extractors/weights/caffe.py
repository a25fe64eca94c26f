"""Read the binary networks and mean cubes of C3D's Caffe: as much of protocol buffers as they need.

C3D's fork (github.com/facebookarchive/C3D) inserted a `length` into BlobProto and so moved the fields behind
it: num 1, channels 2, length 3, height 4, width 5, data 6. A stock caffe.proto misreads these files. A
network's layers are field 2 (the old V1 LayerParameter: name 4, blobs 6).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mesm.extractors.errors import WeightsError

_NETWORK_LAYERS, _LAYER_NAME, _LAYER_BLOBS = 2, 4, 6
_BLOB_AXES, _BLOB_DATA = (1, 2, 3, 4, 5), 6

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _FormatError(Exception):
    """The bytes are no message of this format."""


def read_network(path: Path) -> dict[str, list[torch.Tensor]]:
    """Return each layer's blobs, (num, channels, length, height, width) float32, by the layer's name.

    Raises WeightsError when the file is not such a network.
    """
    layers: dict[str, list[torch.Tensor]] = {}
    try:
        for field, layer in _fields(memoryview(path.read_bytes())):
            if field == _NETWORK_LAYERS and isinstance(layer, memoryview):
                name, blobs = _layer(layer)
                if blobs:
                    layers[name] = blobs
    except (_FormatError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is not a Caffe network of C3D: {error}") from error
    return layers


def read_mean_cube(path: Path) -> torch.Tensor:
    """Return a `.binaryproto` as (channels, length, height, width) float32. Raises WeightsError."""
    try:
        blob = _blob(memoryview(path.read_bytes()))
    except _FormatError as error:
        raise WeightsError(f"{path} is not a mean cube of C3D: {error}") from error
    return blob.squeeze(0)


def _layer(message: memoryview) -> tuple[str, list[torch.Tensor]]:
    name, blobs = "", []
    for field, value in _fields(message):
        if isinstance(value, memoryview) and field == _LAYER_NAME:
            name = str(value, "utf-8")
        elif isinstance(value, memoryview) and field == _LAYER_BLOBS:
            blobs.append(_blob(value))
    return name, blobs


def _blob(message: memoryview) -> torch.Tensor:
    axes = dict.fromkeys(_BLOB_AXES, 1)
    numbers: list[np.ndarray] = []
    for field, value in _fields(message):
        if field in axes and isinstance(value, int):
            axes[field] = value
        elif field == _BLOB_DATA and isinstance(value, memoryview) and len(value) % 4 == 0:
            numbers.append(np.frombuffer(value, dtype="<f4"))
    shape = tuple(axes.values())
    flat = np.concatenate(numbers) if numbers else np.empty(0, np.float32)
    if flat.size != math.prod(shape):
        raise _FormatError(f"a blob of shape {shape} with {flat.size} numbers")
    return torch.from_numpy(flat.astype(np.float32).reshape(shape))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of a message; values are integers or the bytes of the field."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield field, value
            continue
        if kind == _BYTES:
            length, position = _varint(message, position)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise _FormatError(f"a field of unknown kind {kind} at byte {position}")
        if position + length > len(message):
            raise _FormatError(f"a field of {length} bytes at byte {position} of {len(message)}")
        yield field, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise _FormatError("the file ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise _FormatError(f"a number of more than ten bytes at byte {position}")
