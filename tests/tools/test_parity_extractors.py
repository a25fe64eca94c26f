from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mesm.tools import parity_extractors as parity
from mesm.tools.parity import main

GOLDEN = Path(__file__).parents[1] / "extractors" / "golden"
FILES = sorted(path.stem for path in GOLDEN.glob("*.npz"))

EFFECTS = json.loads((GOLDEN / "mutation_effects.json").read_text())

Mistake = Callable[[Any], None]


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def seeing(change: Callable[[torch.Tensor], torch.Tensor]) -> Mistake:
    """Show the encoder (B, T, H, W, 3) clips that were changed."""

    def apply(encoder: Any) -> None:
        normalise = encoder.normalise
        encoder.normalise = lambda clips: normalise(change(clips))

    return apply


def setting(**values: Any) -> Mistake:
    def apply(encoder: Any) -> None:
        for name, value in values.items():
            setattr(encoder, name, value)

    return apply


def norm_eps(eps: float) -> Mistake:
    def apply(encoder: Any) -> None:
        for module in encoder.network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = eps

    return apply


def fast_first(encoder: Any) -> None:
    features = encoder.features
    encoder.features = lambda clips: features(clips).roll(256, dims=1)


def exact_gelu(encoder: Any) -> None:
    for block in getattr(encoder, "tower", getattr(encoder, "network", None)).transformer.resblocks:
        block.mlp.gelu = nn.GELU()


def no_mean(encoder: Any) -> None:
    encoder.mean_cube = torch.zeros(3, 1, 1, 1)


def mean_in_rgb(encoder: Any) -> None:
    encoder.mean_cube = encoder.mean_cube.flip(0)


def rgb_pixels(encoder: Any) -> None:
    encoder.normalise = lambda clips: clips.permute(0, 4, 1, 2, 3).float()


def padded_pool(encoder: Any) -> None:
    encoder.network.pool5 = nn.MaxPool3d((2, 2, 2), padding=(0, 1, 1))


def no_causal_mask(encoder: Any) -> None:
    encoder.tower.attn_mask = torch.zeros_like(encoder.tower.attn_mask)


def projected_tokens(encoder: Any) -> None:
    states = encoder.states

    def projected(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, pooled = states(ids)
        return tokens @ encoder.tower.text_projection, pooled

    encoder.states = projected


BGR, H_FLIP, REVERSED = (seeing(partial(torch.flip, dims=[axis])) for axis in (4, 3, 1))
UNSCALED = setting(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
IMAGENET = setting(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# (name in mutation_effects.json, or None; the mistake; the output that shows it)
MISTAKES: dict[str, list[tuple[str | None, Mistake, str]]] = {
    "slowfast_8x8_r50": [
        ("slowfast/slow idx ::4", setting(slow_frames=tuple(range(0, 32, 4))), "feature"),
        ("slowfast/BGR", BGR, "feature"),
        ("slowfast/time reversed", REVERSED, "feature"),
        ("slowfast/h-flip", H_FLIP, "feature"),
        ("slowfast/x/255 only", UNSCALED, "feature"),
        ("slowfast/imagenet mean std", IMAGENET, "feature"),
        ("slowfast/fast first concat", fast_first, "feature"),
        ("slowfast/bn eps 1e-3", norm_eps(1e-3), "feature"),
        ("slowfast ramp/BGR", BGR, "feature_ramp"),
        ("slowfast ramp/time reversed", REVERSED, "feature_ramp"),
        ("slowfast ramp/h-flip", H_FLIP, "feature_ramp"),
        ("slowfast ramp/slow idx ::4", setting(slow_frames=tuple(range(0, 32, 4))), "feature_ramp"),
    ],
    "i3d_inception_rgb": [
        ("i3d/BGR", BGR, "feature"),
        ("i3d/time reversed", REVERSED, "feature"),
        ("i3d/h-flip", H_FLIP, "feature"),
        ("i3d/[0,1] scale", UNSCALED, "feature"),
        ("i3d/bn eps 1e-5", norm_eps(1e-5), "feature"),
        ("i3d ramp/BGR", BGR, "feature_ramp_t16"),
        ("i3d ramp/time reversed", REVERSED, "feature_ramp_t16"),
        ("i3d ramp/h-flip", H_FLIP, "feature_ramp_t16"),
    ],
    "vgg16_fc7": [
        ("vgg/BGR", BGR, "feature"),
        ("vgg/h-flip", H_FLIP, "feature"),
        ("vgg/no normalise", UNSCALED, "feature"),
        ("vgg/.45/.225", setting(mean=(0.45,) * 3, std=(0.225,) * 3), "feature"),
    ],
    "clip_vit_b32_image": [
        ("clip/BGR", BGR, "feature"),
        ("clip/h-flip", H_FLIP, "feature"),
        ("clip/imagenet norm", IMAGENET, "feature"),
        ("clip/3-digit mean/std", setting(mean=(0.481, 0.458, 0.408), std=(0.269, 0.261, 0.276)), "feature"),
        (None, exact_gelu, "feature"),
    ],
    "clip_vit_b32_text": [
        ("clip_text/no causal mask", no_causal_mask, "tokens_2"),
        ("clip_text/tokens x text_projection", projected_tokens, "tokens_2"),
        (None, exact_gelu, "pooled"),
    ],
    "c3d_sports1m": [
        ("c3d/RGB instead of BGR", rgb_pixels, "feature"),
        ("c3d/no mean", no_mean, "feature"),
        ("c3d/time reversed", REVERSED, "feature"),
        ("c3d/mean RGB order", mean_in_rgb, "feature"),
        ("c3d/h-flip", H_FLIP, "feature"),
        (None, padded_pool, "feature"),
    ],
}

# The reference attended to its padding, which we cut off.
OTHER_SIZE = ("clip_text/no causal mask",)


def test_every_published_mistake_is_tried():
    tried = {name for mistakes in MISTAKES.values() for name, _, _ in mistakes}
    harmless = {"clip_text/truncate padding to 17 tokens", "i3d//127.5-1 float32"}
    assert set(EFFECTS) == tried - {None} | harmless | {name for name in EFFECTS if name.endswith("/unchanged")}


def test_weights_follow_the_formula():
    values = parity.formula_tensor("s1.pathway0_stem.conv.weight", (64, 3, 1, 7, 7)).flatten()[:4]
    assert values.tolist() == pytest.approx([0.01386323, 0.10245454, -0.07752573, -0.09479593], rel=1e-6)
    weight = parity.formula_tensor("s1.pathway0_stem.bn.weight", (64,))[:3]
    assert weight.tolist() == pytest.approx([1.118554, 1.0734398, 1.1532109], rel=1e-6)
    variance = parity.formula_tensor("s1.pathway0_stem.bn.running_var", (64,))[:3]
    assert variance.tolist() == pytest.approx([1.1972485, 0.90949374, 0.977696], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "key", "frames"),
    [
        ("slowfast_8x8_r50", "input_sha256", partial(parity.noise_frames, 32, 224, 11)),
        ("slowfast_8x8_r50", "input_sha256_ramp", partial(parity.ramp_frames, 32, 224)),
        ("i3d_inception_rgb", "input_sha256_t16", partial(parity.noise_frames, 16, 224, 21)),
        ("i3d_inception_rgb", "input_sha256_t24", partial(parity.noise_frames, 24, 224, 22)),
        ("i3d_inception_rgb", "input_sha256_t21", partial(parity.noise_frames, 21, 224, 23)),
        ("i3d_inception_rgb", "input_sha256_ramp_t16", partial(parity.ramp_frames, 16, 224)),
        ("c3d_sports1m", "input_sha256", partial(parity.noise_frames, 16, 112, 31)),
        ("vgg16_fc7", "input_sha256", partial(parity.noise_frames, 2, 224, 41)),
        ("clip_vit_b32_image", "input_sha256", partial(parity.noise_frames, 2, 224, 51)),
    ],
)
def test_inputs_are_the_references(name, key, frames):
    assert hashlib.sha256(frames().tobytes()).hexdigest() == str(load(name)[key])


def test_other_files_are_not_compared(tmp_path, capsys):
    path = tmp_path / "other.npz"
    np.savez(path, numbers=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    assert main([str(path), str(tmp_path / "text.npz"), str(tmp_path / "missing.npz")]) == 2
    assert capsys.readouterr().err.count("not a golden file that can be compared") == 3


@pytest.fixture(scope="module")
def encoders() -> Callable[[str], Any]:
    """Keep one encoder at a time: they are large."""
    kept: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in kept:
            kept.clear()
            kept[name] = parity.golden_encoder(load(name))
        return kept[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_extractors_equal_the_reference(name, encoders):
    golden = load(name)
    rows = parity.compare(golden, encoders(name))
    assert [row.name for row in rows if not row.passed] == []
    stages = {key.split("/")[1] for key in golden if key.startswith("stage/")} - {"pool5", "pool5_davide"}
    compared = {row.name.removesuffix(" 64 values") for row in rows}
    assert stages <= compared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name in FILES for number in range(len(MISTAKES[name]))]
)
def test_deliberate_mistakes_are_caught(name, number, encoders):
    effect, mistake, output = MISTAKES[name][number]
    golden, encoder = load(name), copy.deepcopy(encoders(name))
    mistake(encoder)
    outputs = parity.recognise(golden).outputs(golden, encoder)
    ours = next(values for key, values in outputs if key == output)
    row = parity.relative(output, ours, golden[output])
    assert not row.passed
    assert row.difference > 20 * parity.TOLERANCE
    if effect not in (None, *OTHER_SIZE):
        largest = row.difference * np.abs(golden[output]).max()
        assert largest == pytest.approx(EFFECTS[effect]["maxabs"], rel=1e-3)
