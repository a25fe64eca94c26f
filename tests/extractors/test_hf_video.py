"""Video, image and text models of transformers that are no pair: rows are the models' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_clips, video
from safetensors.torch import load_file, save_file
from test_hf import WORDS, save_tokenizer

from mesm.datasets.shards.fingerprints import fingerprint
from mesm.extractors.contracts import SentenceEncoder
from mesm.extractors.encoders.hf_presets import PRESETS
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder, describe_encoders
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.sources import WeightSources

SMALL: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
LOOKS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
SENTENCES = ["a person opens the door .", "door", "the door opens"]


def video_model(family: str) -> tuple[Any, Any]:
    """Make a small model of random weights and its own processor."""
    import transformers as t

    torch.manual_seed(0)
    if family == "videomae":
        model = t.VideoMAEModel(t.VideoMAEConfig(**SMALL, num_frames=4, tubelet_size=2))
        return model, t.VideoMAEImageProcessor(**CROPPED, **LOOKS)
    if family == "timesformer":
        model = t.TimesformerModel(t.TimesformerConfig(**SMALL, num_frames=4))
        return model, t.VideoMAEImageProcessor(**CROPPED, **LOOKS)
    if family == "vivit":
        model = t.VivitModel(t.VivitConfig(**SMALL, num_frames=4, tubelet_size=[2, 16, 16], video_size=[4, 32, 32]))
        return model, t.VivitImageProcessor(**CROPPED)
    sizes = {key: SMALL[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = t.VJEPA2Config(
        **sizes,
        crop_size=32,
        patch_size=16,
        frames_per_clip=4,
        tubelet_size=2,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )
    return t.VJEPA2Model(config), t.VJEPA2VideoProcessor(size={"shortest_edge": 36}, crop_size=32, **LOOKS)


FAMILIES = ("videomae", "timesformer", "vivit", "vjepa2")


def save(folder: Path, family: str) -> tuple[Path, Any, Any]:
    model, processor = video_model(family)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model.eval(), processor


def prepared(processor: Any, frames: np.ndarray) -> torch.Tensor:
    """Return (1, T, 3, H, W): what the model's own processor makes of (T, H, W, 3) frames."""
    given = processor(list(frames) if "Image" in type(processor).__name__ else [list(frames)], return_tensors="pt")
    return next(iter(given.values())).float()


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_clips_are_the_models_own(family: str, tmp_path: Path) -> None:
    folder, model, processor = save(tmp_path, family)
    encoder = create_video_encoder("hf-video", options={"model": str(folder)})
    # Of the size after scaling, so that only crop and numbers are compared; filters are those of `hf`.
    frames = random_clips(2, 4, (36, 36))
    cut = frames[:, :, 2:34, 2:34]
    extra = {"skip_predictor": True} if family == "vjepa2" else {}
    for clip, row in zip(frames, encoder.encode(cut), strict=True):
        pixels = prepared(processor, clip.numpy())
        torch.testing.assert_close(encoder.normalise(cut[:1]).shape, torch.Size((1, 3, 4, 32, 32)))
        with torch.inference_mode():
            states = model(pixels, **extra).last_hidden_state
        torch.testing.assert_close(row, states[0].mean(0), rtol=1e-4, atol=1e-5)
    assert encoder.dim == 24
    assert encoder.plan(video(frames=300)).frames.shape == (5, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_the_first_token_are_the_models_own(family: str, tmp_path: Path) -> None:
    folder, model, processor = save(tmp_path, family)
    options = {"model": str(folder), "layer": 1, "pool": "first"}
    encoder = create_video_encoder("hf-video", options=options)
    frames = random_clips(1, 4, (36, 36))
    extra = {"skip_predictor": True} if family == "vjepa2" else {}
    with torch.inference_mode():
        output = model(prepared(processor, frames[0].numpy()), output_hidden_states=True, **extra)
    row = encoder.encode(frames[:, :, 2:34, 2:34])[0]
    torch.testing.assert_close(row, output.hidden_states[1][0, 0], rtol=1e-4, atol=1e-5)


def test_span_frames_layer_and_pool_are_in_the_fingerprint(tmp_path: Path) -> None:
    folder, *_ = save(tmp_path, "vjepa2")
    changes: list[dict[str, Any]] = [{}, {"span_s": 1.0}, {"frames": 8}, {"layer": 1}, {"pool": "first"}]
    encoders = [create_video_encoder("hf-video", options={"model": str(folder), **change}) for change in changes]
    assert len({fingerprint(encoder.spec) for encoder in encoders}) == len(changes)
    assert encoders[2].encode(random_clips(1, 8, (32, 32))).shape == (1, 24)
    whole, narrow = (encoders[number].plan(video(frames=300)).frames[1] for number in (0, 1))
    assert narrow[-1] - narrow[0] < whole[-1] - whole[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 9}, "layer is 9; .* has layers 0 to 2"),
        ({"layer": True}, "layer is True"),
        ({"pool": "pooler"}, "pool is 'pooler'; expected one of mean, first"),
        ({"frames": 6}, "frames is 6; a videomae model takes 4"),
        ({"span_s": 0}, "span_s is 0; expected seconds above 0"),
        ({"stride": 2}, "no option stride; its options: frames, layer, model, pool, span_s"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder, *_ = save(tmp_path, "videomae")
    with pytest.raises(EncoderError, match=message):
        create_video_encoder("hf-video", options={"model": str(folder), **options})


def test_an_odd_number_of_frames_is_refused(tmp_path: Path) -> None:
    folder, *_ = save(tmp_path, "vjepa2")
    with pytest.raises(EncoderError, match="frames is 5; expected a multiple of 2"):
        create_video_encoder("hf-video", options={"model": str(folder), "frames": 5})


def image_model(family: str) -> Any:
    import transformers as t

    torch.manual_seed(0)
    if family == "dinov2":
        sizes = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
        return t.Dinov2Model(t.Dinov2Config(**sizes))
    if family == "dinov3":
        return t.DINOv3ViTModel(t.DINOv3ViTConfig(**SMALL, num_register_tokens=2))
    return t.ViTModel(t.ViTConfig(**SMALL))


def save_images(folder: Path, family: str) -> Any:
    model = image_model(family)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}, **LOOKS}))
    return model.eval()


@pytest.mark.parametrize("family", ["dinov2", "dinov3", "vit"])
def test_rows_of_pictures_are_the_models_own(family: str, tmp_path: Path) -> None:
    model = save_images(tmp_path, family)
    clips = random_clips(2, 1, (32, 32))
    mean, std = (torch.tensor(LOOKS[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    with torch.inference_mode():
        output = model((clips[:, 0].permute(0, 3, 1, 2).float() / 255 - mean) / std, output_hidden_states=True)
    wanted = {
        "pooler": output.pooler_output,
        "first": output.last_hidden_state[:, 0],
        "mean": output.last_hidden_state.mean(1),
    }
    for pool, expected in wanted.items():
        encoder = create_video_encoder("hf", options={"model": str(tmp_path), "pool": pool})
        torch.testing.assert_close(encoder.encode(clips), expected, rtol=1e-4, atol=1e-5)
    encoder = create_video_encoder("hf", weights=str(tmp_path))
    torch.testing.assert_close(encoder.encode(clips), wanted["pooler"], rtol=1e-4, atol=1e-5)
    encoder = create_video_encoder("hf", options={"model": str(tmp_path), "layer": 1})
    torch.testing.assert_close(encoder.encode(clips), output.hidden_states[1][:, 0], rtol=1e-4, atol=1e-5)


def test_a_head_is_left_and_a_missing_pooler_is_not_read(tmp_path: Path) -> None:
    save_images(tmp_path, "vit")
    file = tmp_path / "model.safetensors"
    state = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("pooler.")}
    save_file({**state, "classifier.weight": torch.zeros(3, 24)}, file, metadata={"format": "pt"})
    assert create_video_encoder("hf", weights=str(tmp_path)).spec["pool"] == "first"
    with pytest.raises(
        EncoderError, match=r"expected one of first, mean .the file has no weights for the pooling layer"
    ):
        create_video_encoder("hf", options={"model": str(tmp_path), "pool": "pooler"})
    del state["layernorm.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 missing: layernorm.weight"):
        create_video_encoder("hf", weights=str(tmp_path))


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    clips, *_ = save(tmp_path / "clips", "videomae")
    with pytest.raises(EncoderError, match=r"VideoMAEModel; .*for models of clips take hf-video"):
        create_video_encoder("hf", weights=str(clips))
    save_images(tmp_path / "pictures", "vit")
    with pytest.raises(EncoderError, match="ViTModel; expected a model of clips"):
        create_video_encoder("hf-video", weights=str(tmp_path / "pictures"))
    save_tokenizer(tmp_path / "pictures")
    with pytest.raises(EncoderError, match="ViTModel; expected a model of text"):
        create_text_encoder("hf-text", weights=str(tmp_path / "pictures"))


def text_model(family: str) -> Any:
    import transformers as t

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if family == "bert":
        return t.BertModel(t.BertConfig(vocab_size=len(WORDS), **sizes))
    if family == "t5":
        shape = {"d_model": 24, "d_ff": 32, "d_kv": 12, "num_layers": 2, "num_heads": 2}
        return t.T5Model(t.T5Config(vocab_size=len(WORDS), **shape))
    return t.LlamaModel(t.LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=4096, **sizes))


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
@pytest.mark.parametrize("layer", [None, 1])
def test_states_of_tokens_are_the_models_own(family: str, layer: int | None, tmp_path: Path) -> None:
    model = text_model(family).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    options = {"model": str(tmp_path)} | ({} if layer is None else {"layer": layer})
    encoder = create_text_encoder("hf-text", options=options)
    reader = model.get_encoder() if family == "t5" else model
    for features in encoder.encode(SENTENCES):
        with torch.inference_mode():
            output = reader(torch.from_numpy(features.token_ids)[None], output_hidden_states=True)
        states = output.last_hidden_state if layer is None else output.hidden_states[layer]
        np.testing.assert_allclose(features.tokens, states[0].numpy(), rtol=1e-4, atol=1e-5)
        assert features.pooled is None
    assert not isinstance(encoder, SentenceEncoder)
    long = encoder.encode(["door " * 600])[0]
    assert long.cut
    assert len(long.token_ids) == 512


def test_half_precision_is_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    text_model("llama").save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    full, half = (
        create_text_encoder("hf-text", options={"model": str(tmp_path), "precision": precision})
        for precision in ("fp32", "bf16")
    )
    assert fingerprint(full.spec) != fingerprint(half.spec)
    ours, other = full.encode(SENTENCES)[0].tokens, half.encode(SENTENCES)[0].tokens
    assert other.dtype == np.float32
    assert not np.array_equal(ours, other)
    np.testing.assert_allclose(ours, other, atol=0.05)
    with pytest.raises(EncoderError, match="precision is 'fp8'; expected one of fp32, bf16"):
        create_text_encoder("hf-text", options={"model": str(tmp_path), "precision": "fp8"})


def test_presets_are_listed_with_their_licences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    listed = {(row.name, row.weights): row for row in describe_encoders() if row.weights in PRESETS}
    assert set(listed) == {(name, preset.name) for preset in PRESETS.values() for name in preset.encoders}
    assert all(row.licence and row.dim for row in listed.values())
    with pytest.raises(WeightsError, match=r"https://huggingface.co/facebook/vjepa2-vitl-fpc64-256 into a folder"):
        create_video_encoder("hf-video", weights="vjepa2-large", sources=WeightSources(download=False))
    with pytest.raises(EncoderError, match="or one of videomae-base, timesformer-k400, vivit-k400, vjepa2-large"):
        create_video_encoder("hf-video")
