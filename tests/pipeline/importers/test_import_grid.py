"""Released checkpoints of MSAT and its relatives, bare dictionaries of tensors, and their nested features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from mesm.datasets.errors import FeatureError
from mesm.model.network_config import Sizes
from mesm.model.networks.msat import Msat
from mesm.model.position import position_codes
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.evaluate.trained import load_trained
from mesm.pipeline.importers.checkpoint import import_checkpoint
from mesm.pipeline.importers.features import import_features
from mesm.pipeline.importers.published_names import our_name

GOLDEN = Path(__file__).parents[2] / "model" / "networks" / "golden"
SETTINGS = {"msat-tacos-c3d": "msat.npz", "acb-vtc-tacos-c3d": "acb-vtc.npz"}
CPU = torch.device("cpu")


def released(setting: str) -> tuple[dict[str, Tensor], Msat]:
    """A checkpoint as released, but narrow, and the network that it is of."""
    config = load_config(setting).model
    torch.manual_seed(0)
    network = Msat(replace(config, dim=32, feed_forward_dim=16, heads=8), Sizes(4098, 300, 1514))  # type: ignore[arg-type]
    state = network.state_dict()
    with np.load(GOLDEN / SETTINGS[setting]) as golden:
        names = [str(line).partition(" ")[0] for line in golden["parameter_names"]]
    published: dict[str, Tensor] = {}
    for name in names:
        ours = our_name(name, "msat")
        published[name] = torch.zeros(32, 3) if ours is None else state[ours].clone()
    grid = torch.zeros(129, 129)
    grid[network.grid.starts, network.grid.ends] = 1
    published["bert_layer.iou_mask_map"] = grid
    published["bert_layer.vlbert.postion_encoding.pos_table"] = position_codes(194, 194, 32)[None]
    if network.contrast is not None:
        place = "bert_layer.vlbert.mplug."
        published |= {f"{place}{kind}_queue": torch.randn(32, 20) for kind in ("image", "text")}
        published |= {f"{place}idx_queue": torch.full((1, 20), -100), f"{place}queue_ptr": torch.zeros(1).long()}
    return published, network.eval()


def write(folder: Path, content: dict[str, Tensor]) -> Path:
    torch.save(content, folder / "17108_48.79_67.63.pkl")
    return folder / "17108_48.79_67.63.pkl"


@pytest.fixture(autouse=True)
def few_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published 32 heads do not go into the narrow network of this test."""
    read = load_config
    narrow = lambda name: replace(read(name), model=replace(read(name).model, heads=8))  # noqa: E731
    monkeypatch.setattr("mesm.pipeline.importers.checkpoint.load_config", narrow)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_released_checkpoint_answers_as_its_network(setting: str, tmp_path: Path) -> None:
    content, network = released(setting)
    run = import_checkpoint(write(tmp_path, content), tmp_path / "run")
    trained = load_trained(run.path, CPU)
    assert trained.config.name == setting
    assert trained.config.model.behaviour == "official"  # type: ignore[attr-defined]
    # Longer sentences are cut, as the published table of positions ends there.
    assert trained.config.dataset.max_words == 65
    expected = network.answering_state()
    found = trained.network.answering_state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_what_does_not_belong_is_listed_and_nothing_is_written(tmp_path: Path) -> None:
    content, _ = released("msat-tacos-c3d")
    gone = content.pop("bert_layer.final_mlp_s.3.bias")
    content["bert_layer.final_mlp_e.3.bias"] = torch.zeros(2)
    with pytest.raises(
        PipelineError, match=r"1 missing \(as named here\): start_head.3.bias(.|\n)*end|final_mlp_e.3.bias"
    ):
        import_checkpoint(write(tmp_path, content), tmp_path / "run")
    content |= {"bert_layer.final_mlp_s.3.bias": gone, "bert_layer.final_mlp_e.3.bias": gone}
    with pytest.raises(PipelineError, match=r"not of this network: bert_layer.vlbert.encoder.layer"):
        import_checkpoint(write(tmp_path, content), tmp_path / "run", setting="acb-tacos-c3d")
    content["bert_layer.iou_mask_map"] = content["bert_layer.iou_mask_map"].T
    with pytest.raises(PipelineError, match=r"its bert_layer.iou_mask_map, \[129, 129\], is not that of this setting"):
        import_checkpoint(write(tmp_path, content), tmp_path / "run")
    del content["bert_layer.iou_mask_map"]
    with pytest.raises(PipelineError, match=r"no parameter 'bert_layer\.iou_mask_map'"):
        import_checkpoint(write(tmp_path, content), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_annotations_with_other_words_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(
        '{"a": {"fps": 10, "num_frames": 100, "sentences": ["He cuts"], "timestamps": [[0, 10]]}}'
    )
    content, _ = released("msat-tacos-c3d")
    with pytest.raises(PipelineError, match="make a vocabulary of 4 classes, the checkpoint has 1514"):
        import_checkpoint(write(tmp_path, content), tmp_path / "run", annotations=tmp_path)


def test_features_in_a_group_of_each_video_are_read(tmp_path: Path) -> None:
    rows = {name: np.random.default_rng(i).random((3 + i, 5)).astype(np.float32) for i, name in enumerate("ab")}
    with h5py.File(tmp_path / "sub.hdf5", "w") as file:
        for name, array in rows.items():
            file.create_group(f"v_{name}").create_dataset("c3d_features", data=array)
    folder = import_features(tmp_path / "sub.hdf5", tmp_path / "features", name="c3d-activitynet", clip_len_s=0.5)
    for name, array in rows.items():
        np.testing.assert_array_equal(folder.read(f"v_{name}")["features"], array)


def test_links_and_several_datasets_in_a_group_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "sub.hdf5", "w") as file:
        file.create_group("v_a")["c3d_features"] = h5py.ExternalLink("/etc/other.h5", "/x")
        pair = file.create_group("v_b")
        pair["one"], pair["two"] = np.ones((2, 3)), np.ones((2, 3))
        file.create_group("v_c").create_group("deeper")
        file.create_group("v_d")["c3d_features"] = np.ones((2, 3), np.float32)
    with pytest.raises(FeatureError) as caught:
        import_features(tmp_path / "sub.hdf5", tmp_path / "features", name="c3d-activitynet", clip_len_s=0.5)
    for reason in ("it is a link to elsewhere", "it is a group of 2", "it is a group of groups"):
        assert reason in str(caught.value)
