from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from layouts import (
    GOLDEN,
    golden_state,
    on_meta,
    slowfast_blobs,
    write_caffe,
    write_checkpoint,
    write_pickle,
    write_torchscript,
)
from networks import TINY_CLIP, random_clips

from mesm.extractors.encoders.c3d import C3dNetwork
from mesm.extractors.encoders.clip import make_clip
from mesm.extractors.encoders.i3d import InceptionI3d, make_i3d_r50
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.extractors.encoders.slowfast import make_slowfast
from mesm.extractors.encoders.vgg import make_vgg16
from mesm.extractors.errors import WeightsError
from mesm.extractors.weights import converters
from mesm.extractors.weights.sources import WeightSources
from mesm.extractors.weights.tensor_files import read_tensor_file

# Networks without memory are filled, too.
pytestmark = pytest.mark.filterwarnings("ignore:for .*. copying from a non-meta parameter")


def tiny_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return make_clip(TINY_CLIP).state_dict()


def c3d_layers() -> dict[str, list[np.ndarray]]:
    names = {"conv1": "conv1a", "conv2": "conv2a", "fc6": "fc6-1", "fc7": "fc7-1", "fc8": "fc8-1"}
    layers: dict[str, list[np.ndarray]] = {}
    for name, tensor in golden_state("c3d_sports1m").items():
        layer, _ = name.split(".")
        array = tensor.numpy()
        layers.setdefault(names.get(layer, layer), []).append(
            np.broadcast_to(array, (1,) * (5 - array.ndim) + array.shape)
        )
    return layers


class TestSlowFast:
    def test_all_blobs_have_the_published_names(self):
        inventory = json.loads((GOLDEN / "slowfast_8x8_r50_caffe2_blobs.json").read_text())["blobs"]
        assert len(inventory) == 552
        assert all(converters.pyslowfast_name(blob) == name for blob, _, name in inventory)

    def test_all_parameters_have_pytorchvideos_names(self):
        names = json.loads((GOLDEN / "slowfast_pyslowfast_to_pytorchvideo.json").read_text())
        assert len(names) == 662
        assert all(converters.pytorchvideo_name(theirs) == ours for theirs, ours in names.items())

    def test_both_layouts_and_pyslowfasts_own_fill_the_network(self, tmp_path):
        network = on_meta(make_slowfast)
        ours = {name: torch.zeros(()).expand(t.shape) for name, t in network.state_dict().items()}
        files = [
            (write_pickle({"blobs": slowfast_blobs()}, tmp_path / "a.pkl"), True),
            (write_checkpoint({"model_state": ours, "epoch": 196}, tmp_path / "b.pyth"), False),
            (write_checkpoint({"model_state": golden_state("slowfast_8x8_r50")}, tmp_path / "c.pyth"), False),
        ]
        for path, trust in files:
            state = converters.convert_slowfast(read_tensor_file(path, trust))
            converters.load_exactly(network, state, "file")

    def test_values_arrive_where_they_belong(self):
        blobs = slowfast_blobs()
        blobs["t_res2_1_branch2c_bn_riv"][:] = 7.0
        state = converters.convert_slowfast({"blobs": blobs})
        name = "blocks.1.multipathway_blocks.1.res_blocks.1.branch2.norm_c.running_var"
        assert (state[name] == 7.0).all()

    def test_a_foreign_blob_is_reported(self):
        blobs = slowfast_blobs() | {"res9_0_branch1_w": np.zeros(2, np.float32)}
        with pytest.raises(WeightsError, match="1 extra: res9_0_branch1_w"):
            converters.load_exactly(on_meta(make_slowfast), converters.convert_slowfast({"blobs": blobs}), "file")

    @pytest.mark.parametrize("content", [{"blobs": 3}, {"blobs": {"conv1_w": "text"}}, {"model_state": {"a": 1}}])
    def test_other_contents_are_refused(self, content):
        with pytest.raises(WeightsError):
            converters.convert_slowfast(content)

    def test_a_pickle_of_something_else_is_refused(self, tmp_path):
        path = write_pickle(12345, tmp_path / "model.pkl")
        with pytest.raises(WeightsError, match="holds a int; expected a dictionary"):
            read_tensor_file(path, trust_pickle=True)

    def test_the_encoder_loads_the_released_file(self, tmp_path):
        path = write_pickle({"blobs": slowfast_blobs()}, tmp_path / "SLOWFAST_8x8_R50.pkl")
        files = {"slowfast-8x8-r50-caffe2": path}
        with pytest.raises(WeightsError, match="--trust-pickle"):
            create_video_encoder("slowfast-8x8-r50", sources=WeightSources(files=files))
        encoder = create_video_encoder("slowfast-8x8-r50", sources=WeightSources(files=files, trust_pickle=True))
        assert encoder.spec["weights"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert (encoder.network.blocks[0].multipathway_blocks[1].conv.weight == 0.5).all()


# How each released layout is read, what it fills, and a tensor to spoil.
LAYOUTS: dict[str, tuple[Any, Any, str, str]] = {
    "slowfast": (converters.convert_slowfast, make_slowfast, "slowfast_8x8_r50", "s1_fuse.bn.weight"),
    "i3d-inception": (
        converters.convert_i3d_inception,
        InceptionI3d,
        "i3d_inception_rgb",
        "Mixed_4f.b1b.bn.running_var",
    ),
    "c3d": (converters.convert_c3d, C3dNetwork, "c3d_sports1m", "conv3b.weight"),
    "vgg16": (converters.convert_vgg16, make_vgg16, "vgg16_fc7", "features.28.bias"),
    "clip": (converters.convert_clip, lambda: make_clip({}), "clip_vit_b32_image", "visual.ln_pre.weight"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_complete_file_fills_the_network(layout, tmp_path):
    convert, make, golden, _ = LAYOUTS[layout]
    path = write_checkpoint(golden_state(golden), tmp_path / "weights.pt")
    converters.load_exactly(on_meta(make), convert(read_tensor_file(path, False)), str(path))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spoilt", ["missing", "extra", "of another shape"])
def test_every_tensor_is_accounted_for(layout, spoilt, tmp_path):
    convert, make, golden, victim = LAYOUTS[layout]
    state = golden_state(golden)
    if spoilt == "missing":
        del state[victim]
    elif spoilt == "extra":
        state["stranger.weight"] = torch.zeros(2)
    else:
        state[victim] = torch.zeros(5, 6)
    path = write_checkpoint(state, tmp_path / "weights.pt")
    content = convert(read_tensor_file(path, False))
    with pytest.raises(WeightsError) as raised:
        converters.load_exactly(on_meta(make), content, str(path))
    message = str(raised.value)
    assert f"1 {spoilt}: " in message
    assert str(path) in message
    expected = {"missing": next(iter(convert({victim: torch.zeros(1)}))), "extra": "stranger.weight"}
    assert expected.get(spoilt, "[5, 6] instead of [") in message


def test_many_problems_are_listed_in_short(tmp_path):
    with pytest.raises(WeightsError, match=r"32 missing: .* and 20 more; 1 extra: a"):
        converters.load_exactly(on_meta(make_vgg16), {"a": torch.zeros(1)}, "file")


def test_i3d_of_another_number_of_classes_loads(tmp_path):
    state = golden_state("i3d_inception_rgb")
    state["logits.conv3d.weight"] = torch.zeros(1).expand(157, 1024, 1, 1, 1)
    state["logits.conv3d.bias"] = torch.zeros(157)
    # Files of torch 0.3 had no counters of batches.
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    path = write_checkpoint(state, tmp_path / "rgb_charades.pt", legacy=True)
    encoder = create_video_encoder("i3d-inception", weights=str(path))
    assert encoder.network.logits.conv3d.out_channels == 157
    assert encoder.network.Mixed_4b.b1a.bn.eps == 1e-3


def test_i3d_r50_checkpoint_fills_the_network(tmp_path):
    network = on_meta(make_i3d_r50)
    state = {name: torch.zeros(()).expand(t.shape) for name, t in network.state_dict().items()}
    path = write_checkpoint({"model_state": state}, tmp_path / "I3D_8x8_R50.pyth")
    converters.load_exactly(network, converters.convert_i3d_r50(read_tensor_file(path, False)), "file")


def test_c3d_caffe_network_has_the_ports_numbers(tmp_path):
    layers = {"conv1a": c3d_layers()["conv1a"]}
    weight, bias = (np.random.rand(*array.shape).astype(np.float32) for array in layers["conv1a"])
    path = write_caffe({"conv1a": [weight, bias], "fc6-1": [np.ones((1, 1, 1, 3, 2)), np.ones(3)]}, tmp_path / "net")
    state = converters.convert_c3d(read_tensor_file(path, False))
    assert set(state) == {"conv1.weight", "conv1.bias", "fc6.weight", "fc6.bias"}
    np.testing.assert_array_equal(state["conv1.weight"].numpy(), weight)
    assert state["fc6.weight"].shape == (3, 2)
    assert state["fc6.bias"].shape == (3,)


@pytest.mark.slow
def test_c3d_whole_caffe_network_fills_the_network(tmp_path):
    path = write_caffe(c3d_layers(), tmp_path / "conv3d_deepnetA_sport1m_iter_1900000")
    converters.load_exactly(on_meta(C3dNetwork), converters.convert_c3d(read_tensor_file(path, False)), "file")


def test_c3d_layer_without_bias_is_refused(tmp_path):
    path = write_caffe({"conv1a": [np.zeros((2, 3, 3, 3, 3))]}, tmp_path / "net")
    with pytest.raises(WeightsError, match="layer conv1a of the Caffe network has 1 blobs"):
        converters.convert_c3d(read_tensor_file(path, False))


@pytest.mark.parametrize("container", ["torchscript", "checkpoint", "legacy", "data-parallel"])
def test_clip_loads_from_each_container(container, tmp_path):
    state = tiny_state()
    path = tmp_path / "ViT.pt"
    if container == "torchscript":
        write_torchscript(state, path)
    elif container == "data-parallel":
        write_checkpoint({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    else:
        write_checkpoint(state, path, legacy=container == "legacy")
    encoder = create_video_encoder("clip", weights=str(path), options=TINY_CLIP)
    text = create_text_encoder("clip-text", weights=str(path), options=TINY_CLIP)
    torch.manual_seed(0)
    network = make_clip(TINY_CLIP).eval()
    clips = random_clips(2, 1, (32, 32))
    with torch.inference_mode():
        expected = network.encode_image(encoder.normalise(clips).squeeze(2))
    assert torch.allclose(encoder.encode(clips), expected, atol=1e-6)
    assert text.spec["weights"] == encoder.spec["weights"] != "untrained:0"


def test_clip_archive_in_half_precision_becomes_float32(tmp_path):
    state = {name: tensor.half() for name, tensor in tiny_state().items()}
    content = converters.convert_clip(read_tensor_file(write_torchscript(state, tmp_path / "ViT.pt"), False))
    assert {tensor.dtype for tensor in content.values()} == {torch.float32}
    assert not {"input_resolution", "context_length", "vocab_size"} & set(content)


@pytest.mark.slow
def test_openais_archive_fills_the_default_network(tmp_path):
    state = {name: t.half() if t.ndim else t for name, t in golden_state("clip_vit_b32_image").items()}
    path = write_torchscript(state, tmp_path / "ViT-B-32.pt")
    content = converters.convert_clip(read_tensor_file(path, False))
    assert len(content) == 302
    converters.load_exactly(on_meta(lambda: make_clip({})), content, "file")
