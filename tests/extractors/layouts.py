"""Files in the layouts in which weights were released, made from the names and shapes of the reference networks."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

GOLDEN = Path(__file__).parent / "golden"

State = dict[str, torch.Tensor]


def golden_state(file: str, filled: bool = False) -> State:
    """Make tensors of a golden file's names and shapes; without `filled` each is one number, repeated by stride 0."""
    with np.load(GOLDEN / f"{file}.npz", allow_pickle=False) as golden:
        lines = [str(line) for line in golden["state_names"]]
    state = {}
    for line in lines:
        name, shape, dtype = line.split(" ")
        axes = [int(size) for size in shape.strip("[]").split(",") if size]
        number = torch.full((1,) * len(axes), 0.5, dtype=getattr(torch, dtype))
        state[name] = torch.rand(axes) if filled and axes else number.expand(axes)
    return state


def slowfast_blobs() -> dict[str, np.ndarray]:
    """Make Caffe2's blobs of SlowFast, each of one repeated number, with some of the optimiser's."""
    inventory = json.loads((GOLDEN / "slowfast_8x8_r50_caffe2_blobs.json").read_text())["blobs"]
    blobs = {name: np.full(shape, 0.5, dtype=np.float32) for name, shape, _ in inventory}
    return blobs | {
        "conv1_w_momentum": np.zeros(3, dtype=np.float32),
        "lr": np.zeros(1, dtype=np.float32),
        "model_iter": np.zeros(1, dtype=np.int64),
    }


def write_pickle(content: Any, path: Path) -> Path:
    """Write a pickle of protocol 2, the last that Python 2 knew."""
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def write_checkpoint(content: Any, path: Path, legacy: bool = False) -> Path:
    """Write a torch checkpoint; `legacy` in the format before torch 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def write_torchscript(state: Mapping[str, torch.Tensor], path: Path) -> Path:
    """Write a TorchScript archive with these parameters and OpenAI's three numbers."""
    root = _Scripted()
    for name, tensor in state.items():
        *parents, leaf = name.split(".")
        module: nn.Module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, _Scripted())
            module = getattr(module, parent)
        module.register_parameter(leaf, nn.Parameter(tensor.clone(), requires_grad=False))
    for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        root.register_buffer(name, torch.tensor(number))
    torch.jit.script(root).save(str(path))
    return path


class _Scripted(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def write_caffe(layers: Mapping[str, list[np.ndarray]], path: Path) -> Path:
    """Write a network as C3D's Caffe does: layers with their own BlobProto, among fields that are not needed."""
    content = _field(1, b"DeepConv3DNet_Sport1M_Val")
    for name, blobs in layers.items():
        layer = _field(4, name.encode()) + _number(5, 4) + b"".join(_field(6, blob(array)) for array in blobs)
        content += _field(2, layer)
    content += _field(2, _field(4, b"relu1a") + _number(5, 18))
    path.write_bytes(content)
    return path


def blob(array: np.ndarray) -> bytes:
    """Encode (num, channels, length, height, width) as C3D's BlobProto, numbers packed."""
    axes = (1,) * (5 - array.ndim) + array.shape
    sizes = b"".join(_number(field, size) for field, size in enumerate(axes, start=1))
    return sizes + _field(6, array.astype("<f4").tobytes())


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += struct.pack("B", value & 127 | 128)
        value >>= 7
    return out + struct.pack("B", value)


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network that has shapes but no memory."""
    with torch.device("meta"):
        return make()
