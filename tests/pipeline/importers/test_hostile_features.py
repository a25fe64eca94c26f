"""Released features that announce, hold or are called what they should not: named, and all others are imported."""

from __future__ import annotations

import io
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline import cli
from mesm.pipeline.importers.features import IncompleteImportError, import_features

GOOD = np.ones((3, 4), np.float32)


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def huge_hdf5(place: Path) -> Path:
    with h5py.File(place / "f.h5", "w") as file:
        file.create_dataset("bad", shape=(10**12, 4), dtype="f4", chunks=(1024, 4))
        file["a"] = file["z"] = GOOD
    return place / "f.h5"


def huge_chunk(place: Path) -> Path:
    with h5py.File(place / "f.h5", "w") as file:
        file.create_dataset(
            "bad", shape=(4, 4), maxshape=(None, 4), dtype="f4", chunks=(2**26, 4), compression="gzip", fillvalue=0
        )
        file["a"] = file["z"] = GOOD
    return place / "f.h5"


def npy_folder(place: Path, content: bytes) -> Path:
    (place / "npy").mkdir()
    (place / "npy" / "bad.npy").write_bytes(content)
    for key in "az":
        np.save(place / "npy" / f"{key}.npy", GOOD)
    return place / "npy"


def npz_folder(place: Path, content: bytes) -> Path:
    (place / "npz").mkdir()
    with zipfile.ZipFile(place / "npz" / "bad.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", content)
    for key in "az":
        np.savez(place / "npz" / f"{key}.npz", features=GOOD)
    return place / "npz"


ANNOUNCED: dict[str, Callable[[Path], Path]] = {
    "hdf5": huge_hdf5,
    "hdf5 chunk": huge_chunk,
    "npy": lambda place: npy_folder(place, npy_header((10**11, 4)) + bytes(64)),
    "npy, a little": lambda place: npy_folder(place, npy_header((1000, 4)) + bytes(64)),
    "npy, negative": lambda place: npy_folder(place, npy_header((-5, 4)) + bytes(64)),
    "npz": lambda place: npz_folder(place, npy_header((10**11, 4)) + bytes(64)),
    "npz, a little": lambda place: npz_folder(place, npy_header((1000, 4)) + bytes(64)),
}


@pytest.mark.parametrize("kind", ANNOUNCED)
def test_what_announces_more_than_it_has_is_named_and_the_rest_imported(tmp_path: Path, kind: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IncompleteImportError, match=r"bad: .*announces|bad: .*cannot be read"):
        import_features(ANNOUNCED[kind](tmp_path), tmp_path / "features", name="x", clip_len_s=1.0)
    (folder,) = FeatureFolder.all_in(tmp_path / "features")
    assert list(folder) == ["a", "z"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_numbers_that_do_not_fit_are_no_infinities(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a"] = GOOD.astype(np.float64)
        file["bad"] = np.full((3, 4), 1e300)
    with pytest.raises(
        IncompleteImportError, match=r"bad: its numbers do not fit into float32: the largest is 1e\+300"
    ):
        import_features(tmp_path / "f.h5", tmp_path / "features", name="x", clip_len_s=1.0)
    (folder,) = FeatureFolder.all_in(tmp_path / "features")
    assert list(folder) == ["a"]
    assert folder.read("a")["features"].dtype == np.float32
    assert not recwarn.list


def test_some_bad_arrays_end_with_the_code_of_some_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = npy_folder(tmp_path, b"no array")
    arguments = ["import-features", str(source), "--name", "x", "--clip-len", "1", "--features", str(tmp_path / "F")]
    assert cli.run(arguments) == 1
    shown = capsys.readouterr()
    assert "failed: 1 of 3 videos" in shown.err
    assert "bad" in shown.err
    assert Path(shown.out.strip()).is_dir()
    for good in source.glob("[az].npy"):
        good.unlink()
    assert cli.run(arguments) == 2


@pytest.mark.parametrize("ending", [".mp4", ".AVI", ".mkv"])
def test_arrays_called_by_their_films_file_lose_the_ending(tmp_path: Path, ending: str) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file[f"v.1{ending}"] = GOOD
    folder = import_features(tmp_path / "f.h5", tmp_path / "F", name="x", clip_len_s=None, durations={"v.1": 6.0})
    assert folder.record("v.1").duration_s == 6.0
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file["v.1"] = GOOD
    with pytest.raises(FeatureError, match="holds both"):
        import_features(tmp_path / "f.h5", tmp_path / "F", name="x", clip_len_s=1.0)


def test_features_of_videos_that_nobody_annotated_are_not_imported_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["a"] = file["b"] = GOOD
    with pytest.raises(
        FeatureError, match=r"none of the 2 videos .* is annotated: they are called a, b, those of .* v1"
    ):
        import_features(tmp_path / "f.h5", tmp_path / "F", name="x", clip_len_s=1.0, durations={"v1": 3.0})
    assert not (tmp_path / "F").exists()
    import_features(tmp_path / "f.h5", tmp_path / "F", name="x", clip_len_s=1.0, durations={"a": 3.0})
    assert "note: 1 of 2 videos are not annotated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"words": np.array(["", "a"]), "vectors": np.array([[0.0], [1e300]])}, "expected finite float32"),
        ({"words": np.array(["", "a"]), "vectors": np.array([["x"], ["y"]])}, "vectors are <U1"),
        ({"words": np.array([0, 1]), "vectors": np.zeros((2, 3), np.float32)}, "expected texts"),
        ({"words": np.array([["", "a"]]), "vectors": np.zeros((2, 3), np.float32)}, "expected texts"),
    ],
)
def test_word_vectors_that_are_none_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], words: str, recwarn: pytest.WarningsRecorder
) -> None:
    np.savez(tmp_path / "glove.npz", **arrays)
    with pytest.raises(FeatureError, match=words):
        WordVectors.from_npz(tmp_path / "glove.npz")
    assert not recwarn.list


def test_word_vectors_that_announce_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "glove.npz", "w") as archive:
        archive.writestr("words.npy", npy_header((10**9,), "<U100") + bytes(64))
        archive.writestr("vectors.npy", npy_header((10**9, 300)) + bytes(64))
    with pytest.raises(FeatureError, match="announces an array"):
        WordVectors.from_npz(tmp_path / "glove.npz")
