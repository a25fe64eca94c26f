"""The towers of a plain CLIP give open_clip's numbers, without importing it, and only when they are needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import random_clips
from safetensors.torch import load_file, save_file

from mesm.extractors.encoders.clip import make_clip
from mesm.extractors.encoders.clip_pieces import model_names
from mesm.extractors.encoders.clip_towers import plain_config
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.extractors.errors import WeightsError

ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"width": 32, "heads": 2, "layers": 2},
}
TEXTS = ["a person opens the door", "Ünïcode &amp; a very, very long one: " + "word " * 100, ""]


def saved(folder: Path, quick_gelu: bool) -> tuple[Any, dict[str, Any], str]:
    architecture = {**ARCHITECTURE, **({"quick_gelu": True} if quick_gelu else {})}
    torch.manual_seed(0)
    network = make_clip({"architecture": architecture}).eval()
    path = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return network, {"architecture": architecture}, str(path)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_both_towers_give_the_numbers_of_open_clip(quick_gelu: bool, tmp_path: Path) -> None:
    import open_clip

    network, options, path = saved(tmp_path, quick_gelu)
    images = create_video_encoder("clip", weights=path, options=options)
    clips = random_clips(3, 1, (32, 32))
    with torch.inference_mode():
        expected = network.encode_image(images.normalise(clips).squeeze(2))
        torch.testing.assert_close(images.encode(clips), expected, rtol=1e-6, atol=1e-6)
        texts = create_text_encoder("clip-text", weights=path, options=options).encode(TEXTS)
        ids = open_clip.SimpleTokenizer()(TEXTS)
        pooled = network.encode_text(ids)
    for found, row, vector in zip(texts, ids, pooled, strict=True):
        assert found.token_ids.tolist() == row[: len(found.token_ids)].tolist()
        torch.testing.assert_close(torch.from_numpy(found.pooled), vector, rtol=1e-5, atol=1e-6)
    assert len(texts[1].token_ids) == 77


def test_the_specification_is_that_of_open_clips_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, options, path = saved(tmp_path, quick_gelu=True)
    both = [("clip", create_video_encoder), ("clip-text", create_text_encoder)]
    ours = [create(name, weights=path, options=options).spec for name, create in both]
    monkeypatch.setattr("mesm.extractors.encoders.clip.plain_config", lambda *_: None)
    assert [create(name, weights=path, options=options).spec for name, create in both] == ours


def test_an_image_tower_that_is_deferred_is_built_with_the_first_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, options, path = saved(tmp_path, quick_gelu=True)
    now = create_video_encoder("clip", weights=path, options=options)
    built = []
    from mesm.extractors.encoders import clip

    real = clip.load_tower
    monkeypatch.setattr(clip, "load_tower", lambda *a, **k: built.append(a) or real(*a, **k))
    later = create_video_encoder("clip", weights=path, options=options, deferred=True)
    assert (later.spec, later.dim, built) == (now.spec, now.dim, [])
    clips = random_clips(2, 1, (32, 32))
    assert torch.equal(later.encode(clips), now.encode(clips))
    later.encode(clips)
    assert len(built) == 1


@pytest.mark.parametrize("spoilt", ["missing", "extra", "another shape"])
@pytest.mark.parametrize("encoder", ["clip", "clip-text"])
def test_every_tensor_of_the_file_is_accounted_for(encoder: str, spoilt: str, tmp_path: Path) -> None:
    """Also those of the tower that is not built."""
    _, options, path = saved(tmp_path, quick_gelu=True)
    state = load_file(path)
    name = "ln_final.weight" if encoder == "clip" else "visual.proj"
    if spoilt == "missing":
        del state[name]
    elif spoilt == "extra":
        state["stranger"] = torch.zeros(2)
    else:
        state[name] = torch.zeros(3, 4)
    save_file(state, path)
    create = create_video_encoder if encoder == "clip" else create_text_encoder
    with pytest.raises(WeightsError, match="stranger" if spoilt == "extra" else name):
        create(encoder, weights=path, options=options)


def test_models_of_other_kinds_are_left_to_open_clip() -> None:
    assert plain_config({"model": "ViT-B-32-quickgelu"}, "") is not None
    assert plain_config({"model": "RN50"}, "") is None
    assert plain_config({"model": "ViT-B-16-SigLIP"}, "") is None
    assert plain_config({"model": "no-such-model"}, "") is None
    assert {"ViT-B-32", "RN50"} <= set(model_names())


def test_open_clip_is_not_imported(tmp_path: Path) -> None:
    _, options, path = saved(tmp_path, quick_gelu=True)
    code = f"""
import sys
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
create_video_encoder("clip", weights={path!r}, options={options!r})
create_text_encoder("clip-text", weights={path!r}, options={options!r}).encode(["a door"])
print([name for name in ("open_clip", "transformers", "torchvision") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert found.stdout.strip() == "[]"
