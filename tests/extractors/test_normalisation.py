"""Pixels reach each network with the mean and deviation that stand in the golden file, here in their own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mesm.extractors.encoders.registry import create_video_encoder

GOLDEN = json.loads((Path(__file__).parent / "golden" / "preprocessing.json").read_text())
NORMALISED = [name for name, spec in GOLDEN.items() if "mean" in spec and name != "hf"]
LEVELS = (0, 51, 255)


def encoder_of(name: str):
    with torch.device("meta"):
        return create_video_encoder(name, weights="untrained:0", device="meta")


@pytest.mark.parametrize("name", NORMALISED)
def test_levels_become_the_golden_numbers(name: str) -> None:
    encoder, golden = encoder_of(name), GOLDEN[name]
    clips = torch.tensor(LEVELS, dtype=torch.uint8)[:, None, None, None, None].expand(-1, 1, 2, 2, 3)
    found = encoder.normalise(clips)[:, :, 0, 0, 0]
    level = torch.tensor(LEVELS).float()[:, None] / 255
    wanted = (level - torch.tensor(golden["mean"])) / torch.tensor(golden["std"])
    assert torch.allclose(found, wanted, atol=1e-5)


def test_clips_numbers_are_openais() -> None:
    clip = GOLDEN["clip"]
    assert clip["mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert clip["std"] == [0.26862954, 0.26130258, 0.27577711]
    assert (clip["short_side"], clip["crop"]) == (224, [224, 224])
    assert len(NORMALISED) >= 5


@pytest.mark.parametrize("name", NORMALISED)
def test_frames_come_in_the_golden_size(name: str) -> None:
    transform, golden = encoder_of(name).transform, GOLDEN[name]
    assert transform.resize == golden["resize"]
    assert transform.short_side == golden["short_side"]
    assert list(transform.crop) == golden["crop"]
    assert (None if transform.exact is None else list(transform.exact)) == golden["exact"]
