"""Several released files or folders become one set of one encoder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from shared import shared_path

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.shards.publishing import PUBLISH_STEPS
from mesm.pipeline import cli
from mesm.pipeline.importers.features import import_features

WRITE_POINTS = [
    "folder:created",
    "folder:synced",
    *(f"fingerprint:{step}" for step in PUBLISH_STEPS),
    *(f"shard:{step}" for step in PUBLISH_STEPS),
    "shard:half-written:3",
    "shard:published:5",
]
KILLED_AND_CONTINUED = """
import json, os, sys
from pathlib import Path
from mesm.pipeline.importers import features

features.BATCH_BYTES = 1
sources, points = json.loads(sys.argv[1])
statuses = []
for number, point in enumerate(points):
    for fault in (point, ""):
        process = os.fork()
        if process == 0:
            os.environ["MESM_FAULT"] = fault
            root = Path(sys.argv[2], str(number))
            features.import_features([Path(source) for source in sources], root, name="clip", clip_len_s=1.0)
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
print(json.dumps(statuses))
"""


def rows(seed: int, dtype: type = np.float16, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((seed + 3, dim)).astype(dtype)


def write_hdf5(path: Path, videos: Mapping[str, np.ndarray]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, array in videos.items():
            file[key] = array
    return path


def write_files(folder: Path, videos: Mapping[str, np.ndarray], kind: str) -> Path:
    folder.mkdir()
    for key, array in videos.items():
        if kind == "npz":
            np.savez(folder / f"{key}.npz", features=array)
        else:
            np.save(folder / f"{key}.npy", array)
    return folder


def files(root: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock, by relative path."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def assert_holds(folder: FeatureFolder, videos: Mapping[str, np.ndarray]) -> None:
    assert list(folder) == sorted(videos)
    for key, array in videos.items():
        found = folder.read(key)["features"]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert folder.verify() == []


def test_files_and_folders_of_every_layout_become_one_set_in_any_order(tmp_path: Path) -> None:
    sources = [
        write_hdf5(tmp_path / "train.h5", {"v5": rows(5), "v1": rows(1)}),
        write_files(tmp_path / "val", {"v0": rows(0), "v4": rows(4)}, "npz"),
        write_files(tmp_path / "test", {"v2": rows(2), "v3": rows(3)}, "npy"),
    ]
    folder = import_features(sources, tmp_path / "a", name="clip", clip_len_s=1.0)
    assert_holds(folder, {f"v{seed}": rows(seed) for seed in range(6)})
    assert [source["name"] for source in folder.spec["sources"]] == ["test", "train.h5", "val"]
    assert "source" not in folder.spec
    import_features([sources[2], sources[0], sources[1]], tmp_path / "b", name="clip", clip_len_s=1.0)
    assert files(tmp_path / "b") == files(tmp_path / "a")


def test_sources_of_one_name_are_told_apart_by_their_content(tmp_path: Path) -> None:
    sources = [
        write_hdf5(tmp_path / "train" / "clip.h5", {"v0": rows(0)}),
        write_hdf5(tmp_path / "test" / "clip.h5", {"v1": rows(1)}),
    ]
    folder = import_features(sources, tmp_path / "a", name="clip", clip_len_s=1.0)
    assert_holds(folder, {"v0": rows(0), "v1": rows(1)})
    assert [source["name"] for source in folder.spec["sources"]] == ["clip.h5", "clip.h5"]
    import_features(sources[::-1], tmp_path / "b", name="clip", clip_len_s=1.0)
    assert files(tmp_path / "b") == files(tmp_path / "a")


def test_one_source_named_twice_is_that_source(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "clip.h5", {"v0": rows(0)})
    once = import_features([source], tmp_path / "a", name="clip", clip_len_s=1.0)
    assert once.fingerprint == import_features(source, tmp_path / "b", name="clip", clip_len_s=1.0).fingerprint
    import_features([source, source], tmp_path / "c", name="clip", clip_len_s=1.0)
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")


def test_a_video_with_equal_rows_in_two_sources_is_reported_and_taken_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_hdf5(tmp_path / "train.h5", {"v0": rows(0), "s1.avi": rows(1)})
    test = write_hdf5(tmp_path / "test.h5", {"s1": rows(1).astype(np.float32), "v2": rows(2)})
    folder = import_features([train, test], tmp_path / "features", name="clip", clip_len_s=1.0)
    assert_holds(folder, {"s1": rows(1).astype(np.float32), "v0": rows(0), "v2": rows(2)})
    err = capsys.readouterr().err
    assert f"1 videos have equal rows in several sources and are taken once:\n  s1: {test}, {train}" in err
    import_features([test, train], tmp_path / "again", name="clip", clip_len_s=1.0)
    assert files(tmp_path / "again") == files(tmp_path / "features")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (rows(4), "  v1: (7, 8) in {test}, (4, 8) in {train}"),
        (rows(1, dim=5), "  v1: (4, 5) in {test}, (4, 8) in {train}"),
        (rows(1) + np.float16(1), "  v1: other numbers in {test} than in {train}"),
    ],
)
def test_a_video_with_other_rows_in_two_sources_is_a_conflict(tmp_path: Path, other: np.ndarray, message: str) -> None:
    train = write_hdf5(tmp_path / "train.h5", {"v0": rows(0), "v1": rows(1), "v2": rows(2)})
    test = write_hdf5(tmp_path / "test.h5", {"v1": other, "v2": rows(2), "v3": rows(3)})
    with pytest.raises(FeatureError) as caught:
        import_features([train, test], tmp_path / "features", name="clip", clip_len_s=1.0)
    assert message.format(train=train, test=test) in str(caught.value)
    assert "v2" not in str(caught.value)
    assert not (tmp_path / "features").exists()


def test_all_conflicts_are_counted_in_one_message(tmp_path: Path) -> None:
    train = write_hdf5(tmp_path / "train.h5", {f"v{seed:02}": rows(seed) for seed in range(25)})
    test = write_hdf5(tmp_path / "test.h5", {f"v{seed:02}": rows(seed) * 2 for seed in range(25)})
    with pytest.raises(FeatureError, match=r"v00: other numbers in [^$]*v19[^$]*and 5 more"):
        import_features([train, test], tmp_path / "features", name="clip", clip_len_s=1.0)


def test_the_third_copy_is_compared_too(tmp_path: Path) -> None:
    copies = [rows(1), rows(1), rows(1) * 2]
    sources = [write_hdf5(tmp_path / f"{number}.h5", {"v1": copy}) for number, copy in enumerate(copies)]
    with pytest.raises(FeatureError, match=r"v1: other numbers in .*0\.h5 than in .*2\.h5"):
        import_features(sources, tmp_path / "features", name="clip", clip_len_s=1.0)


def test_arrays_of_another_dimension_name_their_source(tmp_path: Path) -> None:
    train = write_hdf5(tmp_path / "train.h5", {"v0": rows(0), "v1": rows(1)})
    test = write_hdf5(tmp_path / "test.h5", {"v2": rows(2, dim=5)})
    with pytest.raises(FeatureError, match=rf"most arrays are \(rows, 8\), 1 are not:\n  v2 in {test}: \(5, 5\)"):
        import_features([train, test], tmp_path / "features", name="clip", clip_len_s=1.0)
    assert not (tmp_path / "features").exists()


def test_single_bad_arrays_are_listed_with_their_source_and_no_copy_is_taken_unseen(tmp_path: Path) -> None:
    nan = np.full((3, 8), np.nan, np.float16)
    train = write_hdf5(tmp_path / "train.h5", {"v0": rows(0), "v1": rows(1), "v2": rows(0), "v3": rows(3)})
    test = write_files(tmp_path / "val", {"v1": np.ones((2, 3, 8), np.float16), "v2": nan, "v4": nan}, "npy")
    with pytest.raises(FeatureError) as caught:
        import_features([train, test], tmp_path / "features", name="clip", clip_len_s=1.0)
    message = str(caught.value)
    assert "3 of 5 videos" in message
    assert f"v1 in {test}: its shape is (2, 3, 8)" in message
    for key in ("v2", "v4"):
        assert f"{key} in {test}: it holds numbers that are not finite" in message
    (folder,) = FeatureFolder.all_in(tmp_path / "features")
    assert_holds(folder, {"v0": rows(0), "v3": rows(3)})


@pytest.mark.parametrize("what", ["nothing", "no hdf5"])
def test_a_source_that_cannot_be_opened_is_named(tmp_path: Path, what: str) -> None:
    train, test = write_hdf5(tmp_path / "train.h5", {"v0": rows(0)}), tmp_path / "test.h5"
    if what == "no hdf5":
        test.write_text("text")
    with pytest.raises(FeatureError, match=str(test)):
        import_features([train, test], tmp_path / "features", name="clip", clip_len_s=1.0)
    assert not (tmp_path / "features").exists()


@pytest.mark.slow
def test_an_import_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    sources = [
        write_hdf5(tmp_path / "train.h5", {"v0": rows(0), "v2": rows(2), "v4": rows(4)}),
        write_files(tmp_path / "test", {"v1": rows(1), "v2": rows(2), "v3": rows(3)}, "npz"),
    ]
    arguments = [json.dumps([[str(source) for source in sources], WRITE_POINTS]), str(tmp_path / "killed")]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AND_CONTINUED, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = json.loads(done.stdout)
    assert dict(zip(WRITE_POINTS, statuses[::2], strict=True)) == dict.fromkeys(WRITE_POINTS, -signal.SIGKILL)
    assert set(statuses[1::2]) == {0}
    results = [files(tmp_path / "killed" / str(number)) for number in range(len(WRITE_POINTS))]
    assert all(result == results[0] for result in results)
    (folder,) = FeatureFolder.all_in(tmp_path / "killed" / "0")
    assert_holds(folder, {f"v{seed}": rows(seed) for seed in range(5)})
    assert len(folder.shards()) == 5


class TestCommand:
    def run(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
        code = cli.run(["import-features", *map(str, arguments)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    def test_another_source_makes_another_set_and_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train = write_hdf5(tmp_path / "train.h5", {"v0": rows(0)})
        test = write_hdf5(tmp_path / "test.h5", {"v1": rows(1)})
        options = ["--name", "clip", "--clip-len", 1, "--features", tmp_path / "features"]
        code, first, err = self.run(capsys, train, *options)
        assert (code, err) == (0, "")
        code, second, err = self.run(capsys, train, test, *options)
        assert code == 0
        assert first != second
        names = [Path(out.strip()).name for out in (first, second)]
        assert f"{names[1]} is a set of its own beside {names[0]}" in err
        assert f"--set features.video.0.fingerprint={names[1][-12:]}" in err
        assert len(FeatureFolder.open(Path(second.strip()))) == 2

    def test_sets_of_other_encoders_are_no_concern(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train = write_hdf5(tmp_path / "train.h5", {"v0": rows(0)})
        for name in ("clip-text", "clip", "clip-text"):
            code, _, err = self.run(capsys, train, "--name", name, "--features", tmp_path / "features")
            assert (code, err) == (0, "")

    def test_every_missing_source_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train = write_hdf5(tmp_path / "train.h5", {"v0": rows(0)})
        code, out, err = self.run(capsys, train, tmp_path / "a.h5", tmp_path / "b", "--name", "clip")
        assert (code, out) == (2, "")
        assert f"there is no {tmp_path / 'a.h5'}, {tmp_path / 'b'};" in err

    def test_word_vectors_are_one_source(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tables = [tmp_path / "a.npz", tmp_path / "b.npz"]
        for table in tables:
            np.savez(table, words=np.array(["<PAD>", "a"]), vectors=np.array([[0, 0], [1, 2]], np.float32))
        options = ["--name", "glove", "--features", tmp_path / "features"]
        code, _, err = self.run(capsys, *tables, *options)
        assert code == 2
        assert f"--name glove takes one source, a table of word vectors; found 2: {tables[0]}, {tables[1]}" in err
        assert not (tmp_path / "features").exists()
        assert self.run(capsys, tables[0], *options)[0] == 0
        assert (tmp_path / "features" / "glove.safetensors").exists()


def test_real_clip_features_of_charades_in_two_files(tmp_path: Path) -> None:
    whole = import_features(shared_path("charades-mini/clip_train.h5"), tmp_path / "one", name="clip", clip_len_s=1.0)
    halves = [
        write_hdf5(tmp_path / name, {key: whole.read(key)["features"] for key in list(whole)[half]})
        for name, half in (("train.h5", slice(0, 600)), ("test.h5", slice(590, None)))
    ]
    joined = import_features(halves, tmp_path / "two", name="clip", clip_len_s=1.0)
    assert list(joined) == list(whole)
    assert all(joined.record(key) == whole.record(key) for key in whole)
    for key in whole:
        np.testing.assert_array_equal(joined.read(key)["features"], whole.read(key)["features"])
