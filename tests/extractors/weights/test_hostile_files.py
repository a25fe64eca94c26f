"""Files made to do harm: each is refused with a message, by a process that lives and has not taken the memory."""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mesm.extractors.errors import WeightsError
from mesm.extractors.weights.converters import convert_clip, convert_slowfast, load_exactly
from mesm.extractors.weights.tensor_files import read_tensor_file
from mesm.extractors.weights.unpickling import read_pickled_arrays, read_torchscript

ADDRESS = b"A" * 8
RECONSTRUCT = np.empty(0).__reduce__()[0]

READ = """
import sys
from pathlib import Path
from mesm.extractors.errors import WeightsError
from mesm.extractors.weights.unpickling import read_pickled_arrays
try:
    print(str(read_pickled_arrays(Path(sys.argv[1]))))
except WeightsError as error:
    print("refused:", error)
"""


class Made:
    """An object whose pickle is what it was given."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def __reduce__(self):
        return self.parts


def array(dtype: object, shape: tuple[int, ...] = (1,), raw: bytes = ADDRESS) -> Made:
    return Made(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, raw))


def dtype(code: str, *state: object) -> Made:
    return Made(np.dtype, (code, False, True), state)


OBJECTS = dtype("O8", 3, "|", None, None, None, -1, -1, 0)
"""An object dtype whose flags say that it holds no objects, so that numpy copies raw bytes as addresses."""


@pytest.mark.parametrize(
    "content",
    [
        {"blobs": array(OBJECTS)},
        {"blobs": Made(OrderedDict, (array(OBJECTS, (4,), ADDRESS * 4),))},
        {"blobs": array(dtype("V8", 3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))},
        {"blobs": array(dtype("f8", 3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))},
        {"blobs": array(dtype("f8", 3, "|", (np.dtype("O"), (1,)), None, None, 8, 1, 0))},
        {"blobs": Made(np.empty(0, "O").__reduce__()[0], (np.ndarray, (4,), b"O"), None)},
    ],
)
def test_raw_bytes_are_never_taken_for_objects(tmp_path: Path, content: object) -> None:
    path = tmp_path / "made.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "refused:" in done.stdout or "[]" in done.stdout


@pytest.mark.parametrize(
    "content",
    [
        {"blobs": array(np.dtype("f8"), (2**44,))},
        {"blobs": array(np.dtype("f8"), (-1,), b"")},
        {"blobs": Made(RECONSTRUCT, (np.ndarray, (2**44,), b"d"), (1, (2**44,), np.dtype("f8"), False, ADDRESS))},
        {"blobs": Made(RECONSTRUCT, (OrderedDict, (0,), b"b"))},
        {"blobs": Made(np.float64(0).__reduce__()[0], (np.dtype("f8"), b"short"))},
        {"blobs": Made(np.dtype, ("f8", False, True), {"names": None})},
    ],
)
def test_arrays_that_announce_what_they_have_not_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "made.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(WeightsError, match=r"made\.pkl is not a pickle of arrays"):
        read_pickled_arrays(path)


def test_one_array_cannot_be_had_a_thousand_times(tmp_path: Path) -> None:
    path = tmp_path / "made.pkl"
    raw = bytes(80_000)
    path.write_bytes(pickle.dumps([array(np.dtype("f8"), (10_000,), raw) for _ in range(1000)], protocol=2))
    assert path.stat().st_size < 4 * len(raw)
    with pytest.raises(WeightsError, match="more memory than it has bytes"):
        read_pickled_arrays(path)


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x7f", b"p2000000000\n"])
def test_a_place_in_the_memory_of_the_unpickler_costs_nothing(tmp_path: Path, put: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "made.pkl"
    path.write_bytes(b"\x80\x02}" + put + b".")
    with pytest.raises(WeightsError, match="it asks for room for"):
        read_pickled_arrays(path)
    archive = tmp_path / "made.pt"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("m/constants.pkl", b"")
        content.writestr("m/data.pkl", b"\x80\x02}" + put + b".")
    with pytest.raises(WeightsError, match="it asks for room for"):
        read_torchscript(archive)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_attributes_do_not_hide_the_methods_of_a_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "made.pkl"
    made = Made(OrderedDict, (), {"items": 1, "keys": 1})
    path.write_bytes(pickle.dumps({"blobs": made, "b": 1}, protocol=2))
    assert convert_slowfast(read_pickled_arrays(path)) == {}


@pytest.mark.parametrize("name", ["constants.pkl", "version"])
def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "made.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"m/{name}", b"3\n")
        archive.writestr("m/data.pkl", bytes(40 * 1024**2))
    with pytest.raises(WeightsError, match=r"unpack to 41,943,04\d; expected tensors"):
        read_tensor_file(path, trust_pickle=False)


def test_a_tensor_repeated_by_a_step_of_zero_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.pt"
    torch.save({"weight": torch.ones(1, dtype=torch.half).expand(2**40)}, path)
    with pytest.raises(WeightsError, match="announce 2,199,023,255,552 bytes"):
        convert_clip(read_tensor_file(path, trust_pickle=False))


def test_modules_inside_one_another_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.pt"
    # A module whose attribute is itself.
    text = b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/data.pkl", text)
    with pytest.raises(WeightsError, match="modules inside one another"):
        read_torchscript(path)


@pytest.mark.parametrize("value", [1e300, float("nan"), float("inf")])
def test_weights_that_are_not_finite_in_the_network_are_refused(value: float) -> None:
    network = nn.Linear(2, 1)
    state = {"weight": torch.full((1, 2), value, dtype=torch.float64), "bias": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"not finite.*weight"):
        load_exactly(network, state, "weights.pt")
    assert torch.isfinite(network.weight).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html><title>Sign in</title>", "begins like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(50), "zip archive that was cut short"),
        (b"", "it is empty"),
    ],
)
def test_what_was_saved_in_the_place_of_weights_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        read_tensor_file(path, trust_pickle=False)


def test_torchs_advice_to_read_unsafely_is_never_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": Made(print, ("x",))}, path)
    with pytest.raises(WeightsError, match=r"it asks for \S*print, which weights do not need") as caught:
        read_tensor_file(path, trust_pickle=True)
    assert "weights_only" not in str(caught.value)
