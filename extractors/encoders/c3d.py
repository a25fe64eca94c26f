"""C3D, trained on Sports-1M: fc6 (or fc7) of windows of 16 frames, 4096-d.

Source: Tran et al. 2015 (github.com/facebookarchive/C3D, weights CC BY-NC 3.0). The network is Caffe's: its
pools round up and do not pad, which matters for pool5. The TACoS features of the literature are fc6 of such a
network for intervals of 128 frames; how the windows inside an interval were pooled is not documented, so this
definition is ours.

Input: an interval of 128 consecutive source frames around the clip's centre, scaled to 171 x 128 whatever the
aspect, (bicubically or as the `resize` setting says; Caffe's frames were scaled bilinearly), centre crop 112,
channels B, G, R in 0..255, minus the mean cube of Sports-1M at the same position in the crop. Output (B,
4096): the mean of fc6 after ReLU over windows of 16 frames, stride 8, inside the interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mesm.extractors.contracts import FramePlan, FrameTransform, VideoInfo
from mesm.extractors.decoding.sampling import interval_rows
from mesm.extractors.encoders.network_encoder import NetworkVideoEncoder, VideoSettings, check_options, require_clean
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.caffe import read_mean_cube
from mesm.extractors.weights.converters import convert_c3d
from mesm.extractors.weights.sources import (
    Untrained,
    Weights,
    WeightsFile,
    WeightsRequest,
    build_network,
    file_sha256,
    find_weights,
)

NAME = "c3d"
DEFAULT_WEIGHTS = "c3d-sports1m"
MEAN_CUBE = "c3d-sports1m-mean"
DIM = 4096

WINDOW, STRIDE = 16, 8
"""Frames of one pass through the network, and from one window to the next."""

CHANNEL_MEANS = (90.25, 97.66, 101.41)
"""Means of the cube's channels B, G, R (reported in github.com/DavideA/c3d-pytorch, issue 1)."""

_FRAME = (128, 171)
_CROP = (112, 112)
_CUBE_SHAPE = (3, WINDOW, *_FRAME)
_WINDOWS_PER_PASS = 16
_OPTIONS = ("layer", "interval_frames", "mean_cube")


class C3dNetwork(nn.Module):
    """The eight convolutions and three linear layers of C3D."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 3, padding=1)
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.conv2 = nn.Conv3d(64, 128, 3, padding=1)
        self.pool2 = nn.MaxPool3d(2)
        self.conv3a = nn.Conv3d(128, 256, 3, padding=1)
        self.conv3b = nn.Conv3d(256, 256, 3, padding=1)
        self.pool3 = nn.MaxPool3d(2)
        self.conv4a = nn.Conv3d(256, 512, 3, padding=1)
        self.conv4b = nn.Conv3d(512, 512, 3, padding=1)
        self.pool4 = nn.MaxPool3d(2)
        self.conv5a = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5b = nn.Conv3d(512, 512, 3, padding=1)
        self.pool5 = nn.MaxPool3d(2, ceil_mode=True)
        self.fc6 = nn.Linear(8192, DIM)
        self.fc7 = nn.Linear(DIM, DIM)
        self.fc8 = nn.Linear(DIM, 487)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, 16, 112, 112) windows to fc6 after ReLU, (N, 4096)."""
        for name, layer in self.named_children():
            if name.startswith("fc"):
                break
            windows = layer(windows)
            if name.startswith("conv"):
                windows = functional.relu(windows)
        return functional.relu(self.fc6(windows.flatten(1)))


class C3dEncoder(NetworkVideoEncoder):
    """An interval of frames per row: the mean of its windows' features."""

    def __init__(self, *args: Any, mean_cube: torch.Tensor, layer: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.layer = layer
        self.mean_cube = mean_cube.to(self.settings.device)
        """(3, 16, 112, 112), or (3, 1, 1, 1) for channel means; channels B, G, R."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """Everything that changes a number of the features; the mean cube takes the place of mean and std."""
        return {name: value for name, value in super().spec.items() if name not in ("mean", "std")}

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take an interval of consecutive frames around each clip's centre."""
        return FramePlan(interval_rows(info, self.clip_len_s, self.frames_per_row), self.transform)

    def normalise(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, T, H, W, 3) uint8 RGB clips into (B, 3, T, H, W) float32 in 0..255, channels B, G, R."""
        return clips.flip(-1).permute(0, 4, 1, 2, 3).float()

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, T, 112, 112) intervals into (B, 4096)."""
        windows = clips.unfold(2, WINDOW, STRIDE).permute(0, 2, 1, 5, 3, 4)
        flat = windows.flatten(0, 1)
        encoded = torch.cat([self._window_features(part) for part in flat.split(_WINDOWS_PER_PASS)])
        return encoded.view(*windows.shape[:2], -1).float().mean(dim=1)

    def _window_features(self, windows: torch.Tensor) -> torch.Tensor:
        fc6 = self.network(windows - self.mean_cube)
        if self.layer == "fc6":
            return fc6
        fc7: Any = self.network.fc7
        return functional.relu(fc7(fc6))


def build_encoder(request: WeightsRequest, settings: VideoSettings, options: Mapping[str, Any]) -> C3dEncoder:
    """Build the encoder.

    Options: `layer` (`fc6` or `fc7`), `interval_frames` (128), `mean_cube`: a `.binaryproto`, or `channels`
    for three channel means. Without it trained weights take the published cube, random ones the channel
    means.
    """
    check_options(NAME, options, _OPTIONS)
    require_clean(NAME, settings)
    layer, frames = options.get("layer", "fc6"), options.get("interval_frames", 128)
    if layer not in ("fc6", "fc7"):
        raise EncoderError(f"option layer of c3d is {layer!r}; expected fc6 or fc7")
    if not isinstance(frames, int) or frames < WINDOW:
        raise EncoderError(f"option interval_frames of c3d is {frames!r}; expected at least {WINDOW}")
    weights = request.resolve(DEFAULT_WEIGHTS)
    cube, cube_identity = _mean_cube(options.get("mean_cube"), weights, request)
    return C3dEncoder(
        NAME,
        build_network(lambda _: C3dNetwork(), weights, convert_c3d),
        settings,
        dim=DIM,
        transform=FrameTransform(settings.resize, short_side=None, exact=_FRAME, crop=_CROP),
        frames_per_row=frames,
        spec={
            "weights": weights.identity,
            "layer": layer,
            "mean_cube": cube_identity,
            "windows": [WINDOW, STRIDE, "mean"],
        },
        mean_cube=cube,
        layer=layer,
    )


def _mean_cube(choice: str | None, weights: Weights, request: WeightsRequest) -> tuple[torch.Tensor, str]:
    """Return the mean to subtract and what the spec says of it."""
    if choice == "channels" or (choice is None and isinstance(weights, Untrained)):
        return torch.tensor(CHANNEL_MEANS).view(3, 1, 1, 1), f"channels:{CHANNEL_MEANS}"
    if choice is None:
        file = find_weights(MEAN_CUBE, request.sources)
    elif Path(choice).is_file():
        file = WeightsFile(Path(choice), file_sha256(Path(choice)))
    else:
        raise EncoderError(f"option mean_cube of c3d is {choice!r}; expected a .binaryproto file, or channels")
    cube = read_mean_cube(file.path)
    if tuple(cube.shape) != _CUBE_SHAPE:
        raise WeightsError(f"{file.path} holds a mean of shape {tuple(cube.shape)}; expected {_CUBE_SHAPE}")
    top, left = ((side - crop) // 2 for side, crop in zip(_FRAME, _CROP, strict=True))
    return cube[:, :, top : top + _CROP[0], left : left + _CROP[1]], file.identity
