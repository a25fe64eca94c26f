from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from networks import TINY_CLIP, random_clips, video

from mesm.extractors.contracts import TextEncoder, VideoEncoder
from mesm.extractors.encoders.i3d import InceptionI3d, same_padding
from mesm.extractors.encoders.network_encoder import inference
from mesm.extractors.encoders.registry import ENCODERS, create_text_encoder, create_video_encoder, describe_encoders
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.sources import WeightSources
from mesm.extractors.weights.table import WEIGHTS


def tiny_clip(weights: str = "untrained:1", **settings) -> VideoEncoder:
    return create_video_encoder("clip", weights=weights, options=TINY_CLIP, **settings)


def tiny_text(weights: str = "untrained:1") -> TextEncoder:
    return create_text_encoder("clip-text", weights=weights, options=TINY_CLIP)


def test_encoders_keep_the_contract():
    assert isinstance(tiny_clip(), VideoEncoder)
    assert isinstance(tiny_text(), TextEncoder)


def test_untrained_weights_depend_on_the_seed_alone():
    clips = random_clips(2, 1, (32, 32))
    torch.manual_seed(5)
    first = tiny_clip().encode(clips)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)), "building an encoder used torch's global random state"
    torch.manual_seed(6)
    assert torch.equal(first, tiny_clip().encode(clips))
    assert not torch.allclose(first, tiny_clip("untrained:2").encode(clips))


def test_image_and_text_towers_of_one_seed_belong_together():
    image, text = tiny_clip(), tiny_text()
    assert image.dim == text.encode(["a dog"])[0].pooled.shape[0] == 16
    assert image.spec["weights"] == text.spec["weights"] == "untrained:1"


def test_a_row_does_not_depend_on_its_batch():
    encoder = tiny_clip()
    clips = random_clips(5, 1, (32, 32))
    alone = torch.cat([encoder.encode(clip[None]) for clip in clips])
    assert torch.allclose(encoder.encode(clips), alone, atol=1e-5)


def test_features_are_float32_in_every_precision():
    clips = random_clips(3, 1, (32, 32))
    exact = tiny_clip().encode(clips)
    for precision in ("bf16", "fp16"):
        encoder = tiny_clip(precision=precision)
        features = encoder.encode(clips)
        assert features.dtype == torch.float32
        assert encoder.spec["precision"] == precision
        assert 0 < (features - exact).abs().max() / exact.abs().max() < 0.05


def test_specs_hold_what_changes_numbers_and_are_json():
    base = tiny_clip().spec
    assert json.loads(json.dumps(base)) == base
    for change in (
        {"weights": "untrained:2"},
        {"clip_len_s": 1.0},
        {"sampling": "parity"},
        {"resize": "swscale"},
        {"precision": "bf16"},
    ):
        assert tiny_clip(**change).spec != base
    assert "device" not in base


def test_fp32_on_a_gpu_is_not_tf32():
    with inference(torch.device("cuda"), "fp32"):
        assert torch.backends.cudnn.enabled
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_clips_of_another_shape_are_refused():
    encoder = tiny_clip()
    with pytest.raises(EncoderError, match=r"expected uint8 of shape \(batch, 1, 32, 32, 3\)"):
        encoder.encode(random_clips(1, 2, (32, 32)))
    with pytest.raises(EncoderError, match=r"float32 clips"):
        encoder.encode(torch.zeros(1, 1, 32, 32, 3))


def test_clip_frames_in_both_modes():
    info = video(frames=300)
    assert tiny_clip(clip_len_s=2.0, sampling="parity").plan(info).frames.ravel().tolist() == [
        29,
        89,
        149,
        209,
        269,
    ]
    assert tiny_clip(clip_len_s=2.0).plan(info).frames.shape == (5, 1)


def test_text_features_are_cut_to_the_valid_tokens():
    short, long = tiny_text().encode(["a person opens a refrigerator door.", "word " * 200])
    assert short.token_ids.tolist() == [49406, 320, 2533, 4801, 320, 36662, 2489, 269, 49407]
    assert short.tokens.shape == (9, 32)
    assert long.tokens.shape == (77, 32)
    assert long.token_ids[-1] == 49407
    fits, longer = tiny_text().encode(["word " * 75, "word " * 76])
    assert [len(fits.tokens), len(longer.tokens)] == [77, 77]
    assert [features.cut for features in (short, long, fits, longer)] == [False, True, False, True]


def test_a_sentence_does_not_depend_on_its_batch():
    encoder = tiny_text()
    sentences = ["a dog", "the man doesn't throw the ball into the pool while children are laughing.", ""]
    together = encoder.encode(sentences)
    for sentence, batched in zip(sentences, together, strict=True):
        alone = encoder.encode([sentence])[0]
        np.testing.assert_array_equal(alone.token_ids, batched.token_ids)
        np.testing.assert_allclose(alone.tokens, batched.tokens, atol=1e-5)
        np.testing.assert_allclose(alone.pooled, batched.pooled, atol=1e-5)
    assert encoder.encode([]) == []


def test_empty_text_is_start_and_end():
    assert tiny_text().encode([""])[0].token_ids.tolist() == [49406, 49407]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("clup", {}, "no video encoder is called 'clup'"),
        ("clip-text", {}, "no video encoder is called 'clip-text'"),
        ("clip", {"options": {"modle": "x"}}, "no option modle; its options: architecture, model"),
        ("clip", {"options": {"model": "ViT-Z"}, "weights": "untrained:0"}, "no model 'ViT-Z'"),
        ("clip", {"options": {"architecture": {"embed_dim": 3}}, "weights": "untrained:0"}, "vision_cfg"),
        ("clip", {"precision": "fp8"}, "precision is 'fp8'; expected one of fp32, bf16, fp16"),
        ("clip", {"clip_len_s": 0.0}, "clip_len_s is 0.0"),
        ("clip", {"device": "gpu"}, "no device is called 'gpu'"),
        ("vgg16", {"sampling": "parity"}, "no parity sampling"),
        ("i3d-inception", {"clip_len_s": 0.1}, "needs 9"),
        ("c3d", {"options": {"layer": "fc8"}}, "expected fc6 or fc7"),
        ("c3d", {"options": {"interval_frames": 8}}, "at least 16"),
        ("c3d", {"weights": "vgg16-imagenet"}, "weights vgg16-imagenet are not for encoder c3d"),
        ("hf", {}, "needs the option model"),
    ],
)
def test_impossible_requests_say_what_is_expected(name, arguments, message):
    with pytest.raises(EncoderError, match=message):
        create_video_encoder(name, **arguments)


@pytest.mark.parametrize("choice", ["untrained:", "untrained:x", "untrained:-1"])
def test_a_seed_is_a_whole_number(choice):
    with pytest.raises(WeightsError, match="whole number"):
        tiny_clip(choice)


def test_other_architectures_have_no_default_weights():
    with pytest.raises(WeightsError, match="give a path or untrained:SEED"):
        tiny_clip("default")


def test_every_encoder_is_described(monkeypatch, tmp_path):
    monkeypatch.setenv("MESM_CACHE", str(tmp_path))
    here = tmp_path / "vgg.pth"
    here.touch()
    rows = describe_encoders(WeightSources(files={"vgg16-imagenet": here}))
    assert {row.name for row in rows} == set(ENCODERS)
    vgg = next(row for row in rows if row.name == "vgg16")
    assert (vgg.dim, vgg.weights, vgg.default, vgg.available) == (4096, "vgg16-imagenet", True, True)
    slowfast = [row for row in rows if row.name == "slowfast-8x8-r50"]
    assert [(row.default, row.available) for row in slowfast] == [(True, False), (False, False)]
    assert all(row.licence for row in rows if row.weights)
    assert {name for entry in ENCODERS.values() for name in entry.weights} <= set(WEIGHTS)


def test_same_padding_follows_the_inputs_size():
    assert same_padding(224, 7, 2) == (2, 3)
    assert same_padding(21, 7, 2) == (3, 3)
    assert same_padding(56, 1, 1) == (0, 0)
    assert same_padding(7, 2, 2) == (0, 1)


def test_i3d_takes_nine_frames_at_least():
    with torch.inference_mode():
        assert InceptionI3d().eval()(torch.zeros(1, 3, 9, 224, 224)).shape == (1, 1024, 1, 1, 1)


def test_slowfast_sees_the_frames_of_its_definition():
    from mesm.extractors.encoders.slowfast import SLOW_FRAMES

    assert tuple(torch.linspace(0, 31, 8).long().tolist()) == SLOW_FRAMES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "frames", "dim"),
    [("slowfast-8x8-r50", 32, 2304), ("i3d-inception", 24, 1024), ("i3d-r50", 8, 2048), ("vgg16", 1, 4096)],
)
def test_untrained_encoders_run(name, frames, dim):
    encoder = create_video_encoder(name, weights="untrained:3")
    plan = encoder.plan(video(frames=150))
    assert plan.frames.shape[1] == frames
    assert len(plan.frames) == round(5 / encoder.clip_len_s + 1e-9) or len(plan.frames) == 3
    features = encoder.encode(random_clips(1, frames, plan.transform.crop))
    assert features.shape == (1, dim) == (1, encoder.dim)
    assert json.loads(json.dumps(encoder.spec)) == encoder.spec


@pytest.mark.slow
def test_i3d_r50_is_pytorchvideos_before_its_head():
    encoder = create_video_encoder("i3d-r50", weights="untrained:3")
    clips = random_clips(1, 8, (224, 224))
    pixels = (clips.permute(0, 4, 1, 2, 3).float() / 255 - 0.45) / 0.225
    head_inputs = []
    encoder.network.blocks[-1].dropout.register_forward_hook(lambda _m, inputs, _o: head_inputs.append(inputs[0]))
    with torch.inference_mode():
        encoder.network(pixels)
    assert torch.allclose(encoder.encode(clips), head_inputs[0].flatten(1), atol=1e-5)


@pytest.mark.slow
def test_c3d_averages_its_windows():
    encoder = create_video_encoder("c3d", weights="untrained:3", options={"interval_frames": 24})
    clips = random_clips(1, 24, (112, 112))
    single = create_video_encoder("c3d", weights="untrained:3", options={"interval_frames": 16})
    windows = torch.cat([single.encode(clips[:, start : start + 16]) for start in (0, 8)])
    row = encoder.encode(clips)
    assert torch.allclose(row, windows.mean(dim=0, keepdim=True), rtol=1e-4, atol=1e-4)
    assert (row >= 0).all()
    fc7 = create_video_encoder("c3d", weights="untrained:3", options={"interval_frames": 24, "layer": "fc7"})
    assert not torch.allclose(fc7.encode(clips), row)
    assert encoder.plan(video(frames=60)).frames.shape == (2, 24)
    assert encoder.spec["mean_cube"].startswith("channels:")
    assert "mean" not in encoder.spec
