"""Released layouts become shards whose numbers are the released ones."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from shared import shared_path

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder
from mesm.pipeline.importers import features as module
from mesm.pipeline.importers.features import import_features
from mesm.pipeline.importers.sources import HDF5Source, squeezed

Videos = dict[str, np.ndarray]


def released(dtype: type = np.float16) -> Videos:
    generator = np.random.default_rng(0)
    return {f"v{n}": generator.standard_normal((n + 3, 8)).astype(dtype) for n in range(4)}


def write_hdf5(place: Path, videos: Mapping[str, np.ndarray]) -> Path:
    path = place / "clip_image.hdf5"
    with h5py.File(path, "w") as file:
        for key, array in videos.items():
            file[key] = array
    return path


def write_npz(place: Path, videos: Mapping[str, np.ndarray]) -> Path:
    folder = place / "clip"
    folder.mkdir()
    for key, array in videos.items():
        np.savez(folder / f"{key}.npz", features=array)
    return folder


def write_npy(place: Path, videos: Mapping[str, np.ndarray]) -> Path:
    folder = place / "i3d"
    folder.mkdir()
    for key, array in videos.items():
        np.save(folder / f"{key}.npy", array[None, :, None, :])
    return folder


LAYOUTS: dict[str, Callable[[Path, Mapping[str, np.ndarray]], Path]] = {
    "hdf5": write_hdf5,
    "npz": write_npz,
    "npy": write_npy,
}


def assert_holds(folder: FeatureFolder, videos: Mapping[str, np.ndarray]) -> None:
    assert list(folder) == sorted(videos)
    for key, array in videos.items():
        found = folder.read(key)["features"]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert folder.verify() == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_numbers_are_kept_as_they_are(tmp_path: Path, layout: str, dtype: type) -> None:
    videos = released(dtype)
    source = LAYOUTS[layout](tmp_path, videos)
    folder = import_features(source, tmp_path / "features", name="clip", clip_len_s=1.0)
    assert_holds(folder, videos)
    assert folder.record("v1").clip_len_s == 1.0
    assert folder.record("v1").duration_s is None


def test_the_fingerprint_says_what_was_imported(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path, released())
    folder = import_features(source, tmp_path / "features", name="clip", clip_len_s=2)
    assert folder.spec == {
        "imported": True,
        "encoder": "clip",
        "source": "clip_image.hdf5",
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "clip_len_s": 2,
        "dim": 8,
    }
    write_hdf5(tmp_path, {key: array + 1 for key, array in released().items()})
    other = import_features(source, tmp_path / "features", name="clip", clip_len_s=2)
    assert other.path != folder.path


def test_the_hash_of_a_folder_covers_names_and_contents(tmp_path: Path) -> None:
    hashes = set()
    for number, rename in enumerate([{}, {"v0": "w0"}]):
        place = tmp_path / str(number)
        place.mkdir()
        source = write_npz(place, {rename.get(key, key): array for key, array in released().items()})
        folder = import_features(source, place / "features", name="clip", clip_len_s=1.0)
        hashes.add(folder.spec["source_sha256"])
    assert len(hashes) == 2


def test_without_a_clip_length_rows_share_the_duration(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path, released())
    durations = {"v0": 4.5, "v1": 8.0, "elsewhere": 1.0}
    folder = import_features(source, tmp_path / "features", name="i3d", clip_len_s=None, durations=durations)
    assert (folder.record("v0").clip_len_s, folder.record("v0").duration_s) == (1.5, 4.5)
    assert folder.record("v1").clip_len_s == 2.0
    assert folder.record("v2").clip_len_s is None


def test_tacos_ids_lose_their_suffix_on_both_sides(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path, {"s13-d21.avi": released()["v0"], "s13-d25": released()["v1"]})
    durations = {"s13-d21": 6.0, "s13-d25.avi": 8.0}
    folder = import_features(source, tmp_path / "features", name="c3d", clip_len_s=None, durations=durations)
    assert {key: folder.record(key).clip_len_s for key in folder} == {"s13-d21": 2.0, "s13-d25": 2.0}


def test_both_spellings_of_one_id_are_refused(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path, {"s13.avi": released()["v0"], "s13": released()["v1"]})
    with pytest.raises(FeatureError, match=r"holds both s13 and s13\.avi"):
        import_features(source, tmp_path / "features", name="c3d", clip_len_s=None)


def test_the_wrong_clip_length_is_refused_with_the_videos_and_the_right_one(tmp_path: Path) -> None:
    videos = {f"v{n}": np.ones((20 + n, 4), np.float16) for n in range(30)}
    durations = {key: len(array) - 0.4 for key, array in videos.items()}
    source = write_hdf5(tmp_path, videos)
    with pytest.raises(FeatureError) as caught:
        import_features(source, tmp_path / "features", name="clip", clip_len_s=2.0, durations=durations)
    message = str(caught.value)
    assert "30 of 30 videos" in message
    assert "a row there lasts 0.9884 s" in message
    assert "v0: 20 rows of 2 s are 40.00 s, the video lasts 19.60 s" in message
    assert "and 10 more" in message
    assert not (tmp_path / "features").exists()


def test_an_interrupted_import_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_hdf5(tmp_path, released())
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    reads: list[str] = []
    read = HDF5Source.read

    def failing(self: HDF5Source, name: str) -> np.ndarray:
        if name == "v2" and "v2" not in reads:
            reads.append(name)
            raise KeyboardInterrupt
        reads.append(name)
        return read(self, name)

    monkeypatch.setattr(HDF5Source, "read", failing)
    with pytest.raises(KeyboardInterrupt):
        import_features(source, tmp_path / "features", name="clip", clip_len_s=1.0)
    steps: list[tuple[int, int]] = []
    folder = import_features(
        source, tmp_path / "features", name="clip", clip_len_s=1.0, progress=lambda *step: steps.append(step)
    )
    assert reads == ["v0", "v1", "v2", "v2", "v3"]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert_holds(folder, released())


def test_single_bad_videos_are_listed_and_the_others_imported(tmp_path: Path) -> None:
    videos = released()
    source = write_npz(tmp_path, videos)
    (source / "v0.npz").write_bytes((source / "v0.npz").read_bytes()[:50])
    np.savez(source / "v1.npz", features=np.full((3, 8), np.nan, np.float16))
    np.savez(source / "v2.npz", embeddings=videos["v2"])
    np.savez(source / "w.npz", features=np.zeros((2, 3, 8), np.float16))
    np.savez(source / "x.npz", features=np.array([["text"]]))
    np.savez(source / "y.npz", features=np.array([None]))
    with pytest.raises(FeatureError) as caught:
        import_features(source, tmp_path / "features", name="clip", clip_len_s=1.0)
    message = str(caught.value)
    assert "6 of 7 videos" in message
    for reason in (
        "v0: v0.npz cannot be read: File is not a zip file",
        "v1: it holds numbers that are not finite",
        "v2: v2.npz cannot be read",
        "w: its shape is (2, 3, 8)",
        "x: x.npz cannot be read: it holds <U4",
        "y: y.npz cannot be read: it holds object",
    ):
        assert reason in message
    (folder,) = FeatureFolder.all_in(tmp_path / "features")
    assert_holds(folder, {"v3": videos["v3"]})


def test_arrays_of_another_dimension_are_refused(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path, {**released(), "odd": np.zeros((3, 5), np.float32)})
    with pytest.raises(FeatureError, match=r"most arrays are \(rows, 8\), 1 are not:\n  odd: \(3, 5\)"):
        import_features(source, tmp_path / "features", name="clip", clip_len_s=1.0)


def test_an_hdf5_file_cannot_reach_other_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones((3, 8), np.float32)
    source = write_hdf5(tmp_path, {"good": released()["v0"]})
    with h5py.File(source, "a") as file:
        file["external"] = h5py.ExternalLink("secret.h5", "x")
        file["soft"] = h5py.SoftLink("/good")
        layout = h5py.VirtualLayout((3, 8), np.float32)
        layout[:] = h5py.VirtualSource(str(secret), "x", (3, 8))
        file.create_virtual_dataset("virtual", layout)
        (tmp_path / "numbers").write_bytes(bytes(96))
        file.create_dataset("stored", (3, 8), np.float32, external=[(str(tmp_path / "numbers"), 0, 96)])
        file.create_group("group")
        file["words"] = np.array([[1, 2]])
    with pytest.raises(FeatureError) as caught:
        import_features(source, tmp_path / "features", name="clip", clip_len_s=1.0)
    assert "6 of 7 videos" in str(caught.value)
    (folder,) = FeatureFolder.all_in(tmp_path / "features")
    assert list(folder) == ["good"]


@pytest.mark.parametrize("what", ["nothing", "empty folder", "both kinds", "text file", "no hdf5"])
def test_a_source_of_no_known_layout_is_refused(tmp_path: Path, what: str) -> None:
    source = tmp_path / ("source.h5" if what == "no hdf5" else "source")
    if what in ("empty folder", "both kinds"):
        source.mkdir()
    if what == "both kinds":
        np.save(source / "a.npy", np.zeros((2, 3)))
        np.savez(source / "a.npz", features=np.zeros((2, 3)))
    if what in ("text file", "no hdf5"):
        source.write_text("text")
    with pytest.raises(FeatureError, match=r"expected a file ending in|cannot be opened as an HDF5 file"):
        import_features(source, tmp_path / "features", name="clip", clip_len_s=1.0)


def test_a_folder_of_both_kinds_is_read_as_told(tmp_path: Path) -> None:
    source = write_npz(tmp_path, released())
    np.save(source / "other.npy", np.zeros((2, 3), np.float32))
    folder = import_features(source, tmp_path / "features", name="clip", clip_len_s=1.0, layout="npz")
    assert_holds(folder, released())


def test_double_precision_becomes_single(tmp_path: Path) -> None:
    videos = released(np.float64)
    source = write_hdf5(tmp_path, videos)
    folder = import_features(source, tmp_path / "features", name="clip", clip_len_s=1.0)
    assert_holds(folder, {key: array.astype(np.float32) for key, array in videos.items()})


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 8), (5, 8)),
        ((1, 8), (1, 8)),
        ((1, 5, 8), (5, 8)),
        ((5, 8, 1, 1), (5, 8)),
        ((1, 1, 8), (1, 8)),
        ((8,), (1, 8)),
    ],
)
def test_axes_of_length_one_are_dropped_but_rows_stay(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert squeezed(shape) == expected


def test_real_clip_features_of_charades(tmp_path: Path) -> None:
    source = shared_path("charades-mini/clip_train.h5")
    with open(shared_path("charades-mini/Charades_v1_train.csv"), newline="") as stream:
        durations = {line["id"]: float(line["length"]) for line in csv.DictReader(stream)}
    with pytest.raises(FeatureError, match=r"1066 of 1066 videos; a row there lasts 0\.98"):
        import_features(source, tmp_path, name="clip", clip_len_s=2.0, durations=durations)
    folder = import_features(source, tmp_path, name="clip", clip_len_s=1.0, durations=durations)
    assert len(folder) == 1066
    assert sum(folder.record(key).rows for key in folder) == 32044
    with h5py.File(source) as file:
        for key in list(folder)[::50]:
            np.testing.assert_array_equal(folder.read(key)["features"], file[key][()])
    assert json.loads((folder.path / "fingerprint.json").read_text())["spec"]["imported"] is True
