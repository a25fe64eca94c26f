"""Released checkpoints of the baselines: told apart by their parameters, exact, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.evaluate.trained import load_trained
from mesm.pipeline.importers.checkpoint import import_checkpoint
from mesm.pipeline.importers.recognition import network_name
from mesm.pipeline.run.checkpoint import BEST, load_checkpoint, save_checkpoint
from mesm.tools.parity_mesm import formula_weight, published_shapes
from mesm.tools.parity_networks import golden_batch

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[2] / "model" / "networks" / "golden"
BASELINES = ("qd-detr", "moment-detr")

Golden = dict[str, np.ndarray]


def golden_of(network: str) -> Golden:
    with np.load(GOLDEN / f"{network}.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def released(golden: Golden) -> dict[str, torch.Tensor]:
    """The weights of a released checkpoint, by the golden file's formula."""
    factors = json.loads(str(golden["weight_factors"]))
    return {
        name: torch.from_numpy(formula_weight(name, shape) * np.float32(factors.get(name, 1.0)))
        for name, shape in published_shapes(golden).items()
    }


def write(folder: Path, model: dict[str, torch.Tensor]) -> Path:
    torch.save({"model": model, "epoch": 180}, folder / "model_best.ckpt")
    return folder / "model_best.ckpt"


@pytest.mark.parametrize("network", BASELINES)
def test_released_network_answers_as_the_published_code(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = golden_of(network)
    import_checkpoint(write(tmp_path, released(golden)), tmp_path / "run")
    assert f"is of the network {network} (it has " in capsys.readouterr().err
    trained = load_trained(tmp_path / "run", CPU)
    assert trained.config.name == f"qvhighlights-clip-slowfast-{network}"
    assert [stream.encoder for stream in trained.config.features.video] == ["slowfast-8x8-r50", "clip"]
    batch = golden_batch(golden, [1], with_negatives=False)
    with torch.inference_mode():
        output = trained.network(batch)
    expected = torch.from_numpy(golden["alone/1/eval/outputs/pred_spans"])
    torch.testing.assert_close(output.spans[0], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("network", BASELINES)
def test_setting_of_another_network_is_refused_with_both_names(network: str, tmp_path: Path) -> None:
    source = write(tmp_path, released(golden_of(network)))
    with pytest.raises(PipelineError, match=rf"holds {network} .*is of mesm; use --setting qvh.*-{network}"):
        import_checkpoint(source, tmp_path / "run", setting="qvhighlights-clip-slowfast")
    assert not (tmp_path / "run").exists()


def test_network_that_reads_other_frames_is_refused_with_both_widths(tmp_path: Path) -> None:
    model = released(golden_of("moment-detr"))
    for name in ("LayerNorm.weight", "LayerNorm.bias"):
        model[f"input_vid_proj.0.{name}"] = model[f"input_vid_proj.0.{name}"][:514].clone()
    model["input_vid_proj.0.net.1.weight"] = model["input_vid_proj.0.net.1.weight"][:, :514].clone()
    with pytest.raises(PipelineError, match=r"frames of 514 numbers \(CLIP alone\), the setting's have 2818"):
        import_checkpoint(write(tmp_path, model), tmp_path / "run")


def test_relative_with_a_few_more_parameters_is_refused_by_their_names(tmp_path: Path) -> None:
    model = released(golden_of("qd-detr")) | {"transformer.dummy_encoder.layers.0.weight": torch.zeros(2)}
    with pytest.raises(PipelineError, match=r"1 not of this network: transformer\.dummy_encoder\.layers\.0\.weight"):
        import_checkpoint(write(tmp_path, model), tmp_path / "run")


def test_stranger_is_refused_with_the_nearest_network() -> None:
    shapes = {"input_vid_proj.0.net.1.weight": (2, 2), "transformer.decoder.layers.0.self_attn.in_proj_weight": (2,)}
    with pytest.raises(PipelineError, match=r"none of the networks mesm, qd-detr, moment-detr.*; nearest is"):
        network_name({**shapes, "backbone.conv.weight": (1,)})


def test_checkpoint_whose_weights_are_another_networks_names_both(tmp_path: Path) -> None:
    import_checkpoint(write(tmp_path, released(golden_of("qd-detr"))), tmp_path / "run")
    path = tmp_path / "run" / "checkpoint-best.safetensors"
    checkpoint = load_checkpoint(path)
    config = {**checkpoint.meta["config"], "model": {"network": "moment-detr"}, "loss": {}}
    save_checkpoint(path, checkpoint.tensors, {**checkpoint.meta, "config": config})
    with pytest.raises(PipelineError, match=r"nearest to those of the network qd-detr, .* is of moment-detr"):
        load_trained(tmp_path / "run", CPU)
    assert BEST in path.name
