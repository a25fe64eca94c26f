"""Listing, showing, exporting, verifying and compacting feature folders."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder, text_key
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.data.stored import compact_features, export_features, list_features, show_features, verify_features
from mesm.pipeline.importers.features import import_features

QUERY = "person opens the door"


def video_rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((seed + 3, 8)).astype(np.float16)


@pytest.fixture
def videos(tmp_path: Path) -> FeatureFolder:
    folder = FeatureFolder.create_or_open(tmp_path / "features", "clip", {"mode": "clean"})
    with folder.writer() as writer:
        for seed in range(4):
            writer.add(f"v{seed}", {"features": video_rows(seed)}, clip_len_s=1.0, duration_s=seed + 3.5)
            writer.publish()
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> FeatureFolder:
    folder = FeatureFolder.create_or_open(tmp_path / "features", "clip-text", {"context": 77})
    arrays: dict[str, np.ndarray] = {
        "tokens": np.ones((6, 16), np.float32),
        "token_ids": np.arange(6),
        "pooled": np.full(16, 2, np.float32),
    }
    with folder.writer() as writer:
        writer.add(text_key(QUERY), arrays, meta={"text": QUERY})
    return folder


def test_list_tells_every_folder_in_a_few_numbers(videos: FeatureFolder, texts: FeatureFolder) -> None:
    text, video = sorted(list_features(videos.path.parent), key=lambda summary: summary.records)
    assert (video.name, video.records, video.rows, video.seconds, video.shards) == ("clip", 4, 18, 20.0, 4)
    assert video.shapes == {"features": (8,)}
    assert video.bytes == sum(path.stat().st_size for path in videos.path.glob("shard-*"))
    assert text.shapes == {"tokens": (16,), "token_ids": (6,), "pooled": (16,)}
    assert [summary.path for summary in list_features(texts.path)] == [texts.path]


@pytest.mark.parametrize("place", ["empty", "missing"])
def test_a_place_without_features_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match=r"holds no features|is not a folder"):
        list_features(tmp_path / place)


def test_show_gives_specification_and_records(videos: FeatureFolder) -> None:
    details = show_features(videos.path, ["v1", "v2"])
    assert details.spec == {"mode": "clean"}
    assert [record.rows for record in details.records] == [4, 5]
    with pytest.raises(FeatureError, match="holds no features of 'nobody'"):
        show_features(videos.path, ["nobody"])


def test_hdf5_export_has_the_released_layout_and_can_be_imported(videos: FeatureFolder, tmp_path: Path) -> None:
    target = tmp_path / "out" / "clip_image.hdf5"
    names: list[str] = []
    assert export_features(videos.path, target, "hdf5", progress=names.append) == 4
    assert names == ["v0", "v1", "v2", "v3"]
    with h5py.File(target) as file:
        assert sorted(file) == names
        assert file["v2"].dtype == np.float16
        np.testing.assert_array_equal(file["v2"][()], video_rows(2))
    back = import_features(target, tmp_path / "back", name="clip", clip_len_s=1.0)
    np.testing.assert_array_equal(back.read("v3")["features"], video_rows(3))
    assert [path.name for path in target.parent.iterdir()] == ["clip_image.hdf5"]


def test_npz_export_has_the_released_layout(videos: FeatureFolder, tmp_path: Path) -> None:
    assert export_features(videos.path, tmp_path / "out", "npz", keys=["v1", "v3"]) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["v1.npz", "v3.npz"]
    with np.load(tmp_path / "out" / "v3.npz") as arrays:
        assert list(arrays) == ["features"]
        np.testing.assert_array_equal(arrays["features"], video_rows(3))


def test_text_export_has_the_released_names(texts: FeatureFolder, tmp_path: Path) -> None:
    export_features(texts.path, tmp_path / "out", "npz", names={"qid2528": text_key(QUERY)})
    with np.load(tmp_path / "out" / "qid2528.npz") as arrays:
        assert sorted(arrays) == ["last_hidden_state", "pooler_output", "token_ids"]
        assert arrays["last_hidden_state"].shape == (6, 16)
        assert arrays["pooler_output"].tolist() == [2.0] * 16
    with pytest.raises(PipelineError, match="released layout is npz"):
        export_features(texts.path, tmp_path / "text.h5", "hdf5")


@pytest.mark.parametrize("layout", ["hdf5", "npz"])
def test_existing_files_are_replaced_only_on_demand(videos: FeatureFolder, tmp_path: Path, layout: str) -> None:
    target = tmp_path / "out"
    export_features(videos.path, target, layout)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="already; choose another place"):
        export_features(videos.path, target, layout)  # type: ignore[arg-type]
    assert export_features(videos.path, target, layout, overwrite=True) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../b", "..", ""])
def test_exported_names_stay_in_the_folder(videos: FeatureFolder, tmp_path: Path, name: str) -> None:
    with pytest.raises(FeatureError, match="cannot be a key"):
        export_features(videos.path, tmp_path / "out", "npz", names={name: "v0"})
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_leaves_nothing(videos: FeatureFolder, tmp_path: Path) -> None:
    def stop(name: str) -> None:
        if name == "v2":
            raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        export_features(videos.path, tmp_path / "out" / "clip.h5", "hdf5", progress=stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_verify_and_removing_damage(videos: FeatureFolder, texts: FeatureFolder) -> None:
    root = videos.path.parent
    assert [(found.records, found.problems) for found in verify_features(root)] == [(4, ()), (1, ())]
    shard = videos.path / "shard-000002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    damaged = next(found for found in verify_features(root) if found.path == videos.path)
    assert [problem.shard for problem in damaged.problems] == [shard]
    verify_features(root, remove_damaged=True)
    assert list(FeatureFolder.open(videos.path)) == ["v0", "v1", "v3"]
    assert not any(found.problems for found in verify_features(root))


def test_compact_every_folder(videos: FeatureFolder, texts: FeatureFolder) -> None:
    assert compact_features(videos.path.parent) == {videos.path: 3, texts.path: 0}
    assert list_features(videos.path)[0].shards == 1
