from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_clips, video
from safetensors.torch import load_file, save_file

from mesm.extractors.decoding.resizing import apply_transform
from mesm.extractors.encoders import hf_folder
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.sources import WeightSources

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "person", "opens", "the", "door", "."]
CONTEXT = 12
SENTENCES = ["a person opens the door .", "door", "a " * 40]


def build_checkpoint(folder: Path, family: str) -> Path:
    """Save a tiny model, tokenizer and image processor as transformers does."""
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel, XCLIPConfig, XCLIPModel

    torch.manual_seed(0)
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**text, "image_size": 32, "patch_size": 8}
    text |= {"vocab_size": len(WORDS), "max_position_embeddings": CONTEXT}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if family == "clip":
        model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        image = {
            "size": {"shortest_edge": 36},
            "crop_size": {"height": 32, "width": 32},
            "do_center_crop": True,
        }
    elif family == "x-clip":
        clips = {"num_frames": 4, "mit_hidden_size": 16, "mit_intermediate_size": 16, "mit_num_hidden_layers": 1}
        clips |= {"mit_num_attention_heads": 2}
        config = XCLIPConfig(text_config=text, vision_config={**vision, **clips}, projection_dim=16)
        config.prompt_num_attention_heads = 2
        model = XCLIPModel(config)
        image = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "resample": 2}
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        image = {"size": {"height": 32, "width": 32}}
    model.save_pretrained(folder)
    image |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def checkpoint(request, tmp_path_factory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def clip_checkpoint(tmp_path_factory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("one"), "clip")


def reference(folder: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder).eval()


def vector(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def test_image_features_are_the_models_own(checkpoint):
    encoder = create_video_encoder("hf", options={"model": str(checkpoint)})
    clips = random_clips(3, 1, (32, 32))
    pixels = clips[:, 0].permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    with torch.inference_mode():
        expected = vector(reference(checkpoint).get_image_features(pixel_values=(pixels - mean) / std))
    features = encoder.encode(clips)
    assert torch.allclose(features, expected, atol=1e-5)
    assert features.shape[1] == encoder.dim
    assert encoder.plan(video(frames=300)).frames.shape == (5, 1)


def test_sizes_are_those_of_the_image_processor(checkpoint):
    transform = create_video_encoder("hf", weights=str(checkpoint)).transform
    assert transform.crop == (32, 32)
    if transform.exact is None:
        assert transform.short_side == 36
    else:
        assert transform.exact == (32, 32)


def test_text_features_are_the_models_own(checkpoint):
    encoder = create_text_encoder("hf-text", options={"model": str(checkpoint)})
    encoded = encoder.encode(SENTENCES)
    model = reference(checkpoint)
    for features in encoded:
        ids = torch.from_numpy(features.token_ids)[None]
        if encoder.sees_padding:
            ids = torch.nn.functional.pad(ids, (0, CONTEXT - ids.shape[1]))
        with torch.inference_mode():
            states = model.text_model(input_ids=ids).last_hidden_state[0, : len(features.token_ids)]
            pooled = vector(model.get_text_features(input_ids=ids))[0]
        np.testing.assert_allclose(features.tokens, states.numpy(), atol=1e-5)
        np.testing.assert_allclose(features.pooled, pooled.numpy(), atol=1e-5)
    assert encoded[0].token_ids.tolist() == [1, 4, 5, 6, 7, 8, 9, 2]
    assert [len(features.token_ids) for features in encoded] == [8, 3, CONTEXT]
    assert encoded[2].token_ids[-1] == 2
    assert [features.cut for features in encoded] == [False, False, True]
    fits, longer = (" ".join(["a"] * (CONTEXT - encoder.special_tokens + more)) for more in (0, 1))
    assert [features.cut for features in encoder.encode([fits, longer])] == [False, True]


def test_a_sentence_does_not_depend_on_its_batch(checkpoint):
    encoder = create_text_encoder("hf-text", weights=str(checkpoint))
    for together, sentence in zip(encoder.encode(SENTENCES), SENTENCES, strict=True):
        np.testing.assert_allclose(together.tokens, encoder.encode([sentence])[0].tokens, atol=1e-5)


def test_spec_knows_weights_and_settings_and_not_the_folder(clip_checkpoint, tmp_path):
    spec = create_video_encoder("hf", weights=str(clip_checkpoint)).spec
    assert spec["weights"].startswith("sha256:")
    assert str(clip_checkpoint) not in json.dumps(spec)
    config = json.loads((clip_checkpoint / "config.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in clip_checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert create_video_encoder("hf", weights=str(copy)).spec == spec
    config["vision_config"]["hidden_act"] = "gelu"
    (copy / "config.json").write_text(json.dumps(config))
    changed = create_video_encoder("hf", weights=str(copy)).spec
    assert changed["weights"] == spec["weights"]
    assert changed["settings"] != spec["settings"]


def test_untrained_weights_need_only_the_settings(clip_checkpoint, tmp_path):
    for path in clip_checkpoint.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    clips = random_clips(1, 1, (32, 32))
    first, second, other = (
        create_video_encoder("hf", weights=f"untrained:{seed}", options={"model": str(tmp_path)}) for seed in (1, 1, 2)
    )
    assert torch.equal(first.encode(clips), second.encode(clips))
    assert not torch.equal(first.encode(clips), other.encode(clips))
    with pytest.raises(WeightsError, match=r"holds no \*.safetensors"):
        create_video_encoder("hf", weights=str(tmp_path))


@pytest.mark.parametrize("spoilt", ["missing", "extra", "another shape"])
def test_every_tensor_is_accounted_for(spoilt, clip_checkpoint, tmp_path):
    for path in clip_checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    name = "visual_projection.weight"
    if spoilt == "missing":
        del state[name]
    elif spoilt == "extra":
        state["stranger"] = torch.zeros(2)
    else:
        state[name] = torch.zeros(3, 4)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="stranger" if spoilt == "extra" else name):
        create_video_encoder("hf", weights=str(tmp_path))


def test_the_hub_is_not_asked_when_downloads_are_off(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"https://huggingface.co/nobody/nothing into a folder"):
        create_video_encoder("hf", weights="nobody/nothing", sources=WeightSources(download=False))


def test_other_models_are_refused(tmp_path):
    from transformers import BertConfig, BertModel

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=10, **small)).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="BertModel; expected a model of the CLIP family, or one of pictures"):
        create_video_encoder("hf", weights=str(tmp_path))


def test_a_checkpoint_without_image_settings_is_refused(clip_checkpoint, tmp_path):
    for path in clip_checkpoint.iterdir():
        if path.name != "preprocessor_config.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(EncoderError, match=r"no preprocessor_config.json"):
        create_video_encoder("hf", weights=str(tmp_path))


def test_clips_of_several_frames_are_the_models_own(tmp_path):
    folder = build_checkpoint(tmp_path, "x-clip")
    encoder = create_video_encoder("hf", options={"model": str(folder)})
    assert encoder.frames_per_row == 4
    clips = random_clips(3, 4, (32, 32))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    pixels = (clips.permute(0, 1, 4, 2, 3).float() / 255 - mean) / std
    with torch.inference_mode():
        expected = vector(reference(folder).get_video_features(pixel_values=pixels))
    torch.testing.assert_close(encoder.encode(clips), expected, rtol=1e-5, atol=1e-5)
    assert encoder.plan(video(frames=300)).frames.shape == (5, 4)
    text = create_text_encoder("hf-text", options={"model": str(folder)}).encode(SENTENCES)
    assert all(len(features.pooled) == encoder.dim for features in text)


def test_both_encoders_of_a_model_build_it_once(checkpoint, monkeypatch):
    built = []
    real = hf_folder._network
    monkeypatch.setattr(hf_folder, "_network", lambda *arguments: built.append(arguments) or real(*arguments))
    images = create_video_encoder("hf", weights=str(checkpoint))
    texts = create_text_encoder("hf-text", weights=str(checkpoint))
    assert images.network is texts.network
    assert len(built) == 1
    del images, texts
    gc.collect()
    create_text_encoder("hf-text", weights=str(checkpoint))
    assert len(built) == 2


@pytest.mark.parametrize("size", [(48, 90), (70, 41)])
@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2", "x-clip"])
def test_pictures_are_prepared_as_transformers_does(family, size, tmp_path):
    from transformers import CLIPImageProcessor, SiglipImageProcessor, VideoMAEImageProcessor

    folder = build_checkpoint(tmp_path, "siglip" if family == "siglip2" else family)
    looks = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "do_convert_rgb": True}
    cropped = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    exact = {"size": {"height": 32, "width": 32}}
    processor = {
        "clip": lambda: CLIPImageProcessor(**cropped, **looks),
        "siglip": lambda: SiglipImageProcessor(**exact, **looks),
        "siglip2": lambda: SiglipImageProcessor(**exact, **looks, resample=2),
        "x-clip": lambda: VideoMAEImageProcessor(**cropped, **looks),
    }[family]()
    processor.save_pretrained(folder)
    rows, columns = np.mgrid[: size[0], : size[1]]
    frame = np.stack([4 * rows % 256, 5 * columns % 256, 3 * (rows + columns) % 256], axis=-1).astype(np.uint8)
    encoder = create_video_encoder("hf", weights=str(folder))
    ours = encoder.normalise(apply_transform(frame[None], encoder.transform)[None])[0, :, 0]
    given = [frame] if family == "x-clip" else frame
    theirs = processor(given, return_tensors="pt")["pixel_values"].float().reshape(-1, 3, 32, 32)[0]
    # Crops of odd rests begin a pixel apart, see the module of the resizing; these have none.
    difference = (ours - theirs).abs() * torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1) * 255
    assert float((difference > 2.5).float().mean()) < 0.02
    other = apply_transform(frame[None], replace(encoder.transform, smoothing="bicubic"))
    assert torch.equal(other, apply_transform(frame[None], encoder.transform)) == (family in ("clip", "siglip"))


def test_patches_of_any_shape_are_refused(tmp_path):
    from transformers import Siglip2Config, Siglip2Model

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    Siglip2Model(
        Siglip2Config(text_config={**small, "vocab_size": 10}, vision_config={**small, "num_patches": 16})
    ).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"Siglip2Model, which takes pictures of any shape.*fixed size"):
        create_video_encoder("hf", weights=str(tmp_path))


@pytest.mark.parametrize("values", [{"size": 3.5}, {"size": ["x"]}, {"image_mean": 3}, {"image_std": [0, 1, 1]}, None])
def test_an_image_processor_of_other_values_is_refused(values, clip_checkpoint, tmp_path):
    for path in clip_checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "preprocessor_config.json"
    text = "[" * 100_000 if values is None else json.dumps({**json.loads(file.read_text()), **values})
    file.write_text(text)
    with pytest.raises(EncoderError, match=r"image processor|JSON"):
        create_video_encoder("hf", weights=str(tmp_path))


def test_an_unknown_filter_is_refused(clip_checkpoint, tmp_path):
    for path in clip_checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "resample": 1}))
    with pytest.raises(EncoderError, match="filter 1; expected 2, bilinear, or 3, bicubic"):
        create_video_encoder("hf", weights=str(tmp_path))
