"""SlowFast 8x8 R50 of pytorchvideo, trained on Kinetics-400: 2304-d motion features.

Source: Feichtenhofer et al. 2019; the network is pytorchvideo's, its weights PySlowFast's Caffe2 file (the
one that released features used) or pytorchvideo's own. The frames and the recipe are those of
HERO_Video_Feature_Extractor.

Input: 32 frames over 64/30 s, scaled to a short side of 224, centre crop 224, RGB / 255, minus 0.45, divided
by 0.225. The fast pathway sees all 32, the slow one 8 of them: linspace(0, 31, 8), truncated. Output (B,
2304): both pathways' averages over time and space before dropout and projection, 2048 of the slow pathway,
then 256 of the fast one.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from mesm.extractors.contracts import FramePlan, FrameTransform, VideoInfo
from mesm.extractors.decoding.sampling import SLOWFAST_FRAMES, clip_rows, slowfast_parity_rows
from mesm.extractors.encoders.network_encoder import NetworkVideoEncoder, VideoSettings, check_options
from mesm.extractors.weights.converters import convert_slowfast
from mesm.extractors.weights.sources import WeightsRequest, build_network

NAME = "slowfast-8x8-r50"
DEFAULT_WEIGHTS = "slowfast-8x8-r50-caffe2"
DIM = 2304

SPAN_S = Fraction(64, 30)
"""Seconds that 32 frames cover: every second frame at 30 frames per second."""

SLOW_FRAMES = tuple(31 * i // 7 for i in range(8))
"""Frames of the slow pathway among the 32: 0, 4, 8, 13, 17, 22, 26, 31."""

_HEAD = 6


class SlowFastEncoder(NetworkVideoEncoder):
    """32 frames per row through both pathways: their averages, slow first."""

    mean = (0.45, 0.45, 0.45)
    std = (0.225, 0.225, 0.225)
    slow_frames: tuple[int, ...] = SLOW_FRAMES

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take 32 frames around each clip's centre, or in `parity` mode those of the released features."""
        if self.settings.sampling == "parity":
            return FramePlan(slowfast_parity_rows(info, self.clip_len_s), self.transform)
        return FramePlan(clip_rows(info, self.clip_len_s, SLOWFAST_FRAMES, SPAN_S), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, 32, 224, 224) clips into (B, 2304)."""
        blocks: Any = self.network.blocks
        pathways: Any = [clips[:, :, list(self.slow_frames)], clips]
        for block in blocks[:_HEAD]:
            pathways = block(pathways)
        return pathways.flatten(1)


def make_slowfast() -> nn.Module:
    """Make the network with random weights, classification head included."""
    from pytorchvideo.models.hub import slowfast_r50

    return slowfast_r50(pretrained=False)


def build_encoder(request: WeightsRequest, settings: VideoSettings, options: Mapping[str, Any]) -> SlowFastEncoder:
    """Build the encoder; it has no options."""
    check_options(NAME, options, ())
    weights = request.resolve(DEFAULT_WEIGHTS)
    network = build_network(lambda _: make_slowfast(), weights, convert_slowfast)
    transform = FrameTransform(settings.resize, short_side=224, exact=None, crop=(224, 224))
    spec = {"weights": weights.identity, "slow_frames": list(SLOW_FRAMES)}
    return SlowFastEncoder(
        NAME, network, settings, dim=DIM, transform=transform, frames_per_row=SLOWFAST_FRAMES, spec=spec
    )
