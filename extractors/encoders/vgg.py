"""VGG-16 of torchvision, trained on ImageNet: fc7 of one frame per clip, 4096-d.

Source: Simonyan and Zisserman 2015; torchvision's network and weights. The Charades VGG features of the
literature come from a two-stream VGG-16 trained on Charades (one row per 1/6 s): same shape, other numbers.

Input: the frame at each clip's centre, short side 256, centre crop 224, RGB / 255, ImageNet's mean and
standard deviation. Output (B, 4096): fc7 after ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mesm.extractors.contracts import FramePlan, FrameTransform, VideoInfo
from mesm.extractors.decoding.sampling import image_rows
from mesm.extractors.encoders.network_encoder import NetworkVideoEncoder, VideoSettings, check_options, require_clean
from mesm.extractors.weights.converters import convert_vgg16
from mesm.extractors.weights.sources import WeightsRequest, build_network

NAME = "vgg16"
DEFAULT_WEIGHTS = "vgg16-imagenet"
DIM = 4096

_FC7_AND_RELU = 5


class VggEncoder(NetworkVideoEncoder):
    """One frame per row: fc7 after ReLU."""

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take the frame at each clip's centre."""
        return FramePlan(image_rows(info, self.clip_len_s), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, 1, 224, 224) images into (B, 4096)."""
        network: Any = self.network
        maps = network.avgpool(network.features(clips.squeeze(2)))
        return network.classifier[:_FC7_AND_RELU](maps.flatten(1))


def make_vgg16() -> nn.Module:
    """Make torchvision's network with random weights."""
    from torchvision.models import vgg16

    return vgg16(weights=None)


def build_encoder(request: WeightsRequest, settings: VideoSettings, options: Mapping[str, Any]) -> VggEncoder:
    """Build the encoder; it has no options."""
    check_options(NAME, options, ())
    require_clean(NAME, settings)
    weights = request.resolve(DEFAULT_WEIGHTS)
    network = build_network(lambda _: make_vgg16(), weights, convert_vgg16)
    transform = FrameTransform(settings.resize, short_side=256, exact=None, crop=(224, 224))
    spec = {"weights": weights.identity, "layer": "fc7"}
    return VggEncoder(NAME, network, settings, dim=DIM, transform=transform, frames_per_row=1, spec=spec)
