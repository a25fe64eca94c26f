from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import blob, write_caffe, write_checkpoint, write_pickle, write_torchscript

from mesm.extractors.errors import WeightsError
from mesm.extractors.weights.caffe import read_mean_cube, read_network
from mesm.extractors.weights.tensor_files import read_tensor_file
from mesm.extractors.weights.unpickling import read_pickled_arrays, read_torchscript


class Attack:
    """An object whose pickle touches a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_arrays_come_back(tmp_path):
    content = {
        "blobs": OrderedDict(a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.float64(2.5)),
        "names": [b"\xe9", "text"],
    }
    for protocol in (0, 1, 2, 4):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        back = read_pickled_arrays(path)
        np.testing.assert_array_equal(back["blobs"]["a"], content["blobs"]["a"])
        assert back["blobs"]["b"] == 2.5


def test_a_pickle_of_python_2_is_read_as_latin1(tmp_path):
    path = tmp_path / "old.pkl"
    # {'blobs': 'caf\xe9'} as Python 2 writes it: a byte string, SHORT_BINSTRING.
    path.write_bytes(b"\x80\x02}U\x05blobsU\x04caf\xe9s.")
    assert read_pickled_arrays(path) == {"blobs": "café"}


def test_a_pickle_cannot_run_anything(tmp_path):
    target = tmp_path / "touched"
    path = write_pickle({"blobs": Attack(target)}, tmp_path / "attack.pkl")
    with pytest.raises(WeightsError, match="which weights do not need"):
        read_tensor_file(path, trust_pickle=True)
    checkpoint = tmp_path / "attack.pt"
    torch.save({"weight": Attack(target)}, checkpoint)
    with pytest.raises(WeightsError, match="not a torch file of tensors alone"):
        read_tensor_file(checkpoint, trust_pickle=True)
    assert not target.exists()


def test_an_archive_cannot_run_anything(tmp_path):
    target = tmp_path / "touched"
    path = tmp_path / "attack.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/data.pkl", pickle.dumps(Attack(target), protocol=2))
    with pytest.raises(WeightsError, match="which weights do not need"):
        read_tensor_file(path, trust_pickle=True)
    assert not target.exists()


def test_pickles_are_opened_only_when_trusted(tmp_path):
    path = write_pickle({"a": 1}, tmp_path / "weights.pkl")
    with pytest.raises(WeightsError, match="--trust-pickle"):
        read_tensor_file(path, trust_pickle=False)
    assert read_tensor_file(path, trust_pickle=True) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}U\x05blo", b"PK\x03\x04 not a zip", b"\x0a\xff\xff"])
def test_broken_files_are_refused(content, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.bin"):
        read_tensor_file(path, trust_pickle=True)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("container", ["checkpoint", "legacy", "torchscript", "safetensors", "caffe"])
def test_truncated_files_are_refused(container, kept, tmp_path):
    path = tmp_path / "weights.pt"
    state = {"layer.weight": torch.rand(64, 64), "layer.bias": torch.rand(64)}
    if container == "torchscript":
        write_torchscript(state, path)
    elif container == "safetensors":
        import safetensors.torch

        safetensors.torch.save_file(state, path)
    elif container == "caffe":
        write_caffe({"conv1a": [np.ones((4, 3, 3, 3, 3)), np.ones(4)]}, path)
    else:
        write_checkpoint(state, path, legacy=container == "legacy")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(WeightsError):
        read_tensor_file(path, trust_pickle=True)


def test_torchscript_gives_what_torch_reads_from_it(tmp_path):
    state = {
        "visual.conv.weight": torch.rand(3, 4).half(),
        "visual.conv.bias": torch.rand(6)[::2],
        "shared": torch.rand(2, 2).t(),
        "empty": torch.empty(0),
    }
    path = write_torchscript(state, tmp_path / "model.pt")
    expected = torch.jit.load(str(path)).state_dict()
    found = read_torchscript(path)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_mean_cube_reads_c3ds_own_layout(tmp_path):
    cube = np.random.rand(3, 16, 8, 9).astype(np.float32)
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(blob(cube[None]))
    np.testing.assert_array_equal(read_mean_cube(path).numpy(), cube)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WeightsError, match="not a mean cube of C3D"):
        read_mean_cube(path)


def test_stock_caffe_blobs_do_not_pass_for_c3ds(tmp_path):
    path = tmp_path / "net"
    # Stock BlobProto: num, channels, height, width, data 5; field 5 is C3D's width.
    stock = b"\x08\x01\x10\x01\x18\x01\x20\x02" + b"\x2a\x08" + np.ones(2, "<f4").tobytes()
    layer = b"\x22\x01a" + b"\x32" + bytes([len(stock)]) + stock
    path.write_bytes(b"\x0a\x01n" + b"\x12" + bytes([len(layer)]) + layer)
    with pytest.raises(WeightsError, match="blob of shape"):
        read_network(path)
