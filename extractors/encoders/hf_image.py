"""Image models of transformers: features of frames, or of clips, and of texts in their space.

Models with `get_image_features` (one frame a row) or `get_video_features` (as many frames as the model takes) and
`get_text_features`, such as CLIP, SigLIP and X-CLIP, give what these functions give, not L2-normalised. Image towers
alone, such as DINOv2, DINOv3, ViT or the vision model of CLIP, give what option `pool` says. Size, crop, filter, mean
and standard deviation are those of the checkpoint's own image processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mesm.extractors.contracts import FramePlan, VideoInfo
from mesm.extractors.decoding.sampling import image_rows, window_rows
from mesm.extractors.encoders.hf_folder import HfModel, image_settings, is_pair, load_model
from mesm.extractors.encoders.hf_states import Reading, reading_of
from mesm.extractors.encoders.network_encoder import (
    NetworkVideoEncoder,
    VideoSettings,
    check_options,
    require_clean,
)
from mesm.extractors.errors import EncoderError
from mesm.extractors.weights.sources import WeightsRequest

NAME = "hf"
PATCHES_OF_ANY_SHAPE = {"siglip2"}


class HfImageEncoder(NetworkVideoEncoder):
    """One frame per row through the image tower: what `get_image_features` gives."""

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take the frame at each clip's centre."""
        return FramePlan(image_rows(info, self.clip_len_s), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, 1, H, W) images into (B, dim)."""
        network: Any = self.network
        return pooled(network.get_image_features(pixel_values=clips.squeeze(2)))


class HfTowerEncoder(HfImageEncoder):
    """One frame per row through a model of pictures alone, read as `reading` says."""

    reading: Reading

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, 1, H, W) images into (B, dim)."""
        return self.reading.vectors(self.network, pixel_values=clips.squeeze(2))


class HfClipEncoder(NetworkVideoEncoder):
    """As many frames per row as the model takes, spread over the clip: what `get_video_features` gives."""

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take the frames at the middles of equal parts of each clip."""
        return FramePlan(window_rows(info, self.clip_len_s, self.frames_per_row), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, T, H, W) clips into (B, dim)."""
        network: Any = self.network
        return pooled(network.get_video_features(pixel_values=clips.transpose(1, 2)))


def pooled(output: Any) -> torch.Tensor:
    """Return the projected vectors: transformers 4 gives them alone, 5 inside an object."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def build_encoder(
    request: WeightsRequest, settings: VideoSettings, options: Mapping[str, Any]
) -> HfImageEncoder | HfClipEncoder:
    """Build the encoder of images, or of clips, of the folder or hub id that option `model`, or `weights`, names.

    Further options, for models of pictures alone: `layer` and `pool` (see `hf_states`).
    """
    require_clean(NAME, settings)
    check_options(NAME, options, ("model", "layer", "pool"))
    model = load_model(NAME, request, options.get("model"), settings.device, _accepted)
    if not is_pair(model.network):
        return _tower(model, settings, options)
    check_options(f"{NAME} with a model of pictures and texts", options, ("model",))
    network = model.network
    clips = not hasattr(network, "get_image_features")
    frames = int(network.config.vision_config.num_frames) if clips else 1
    kind = HfClipEncoder if clips else HfImageEncoder
    return _made(kind, model, settings, _dim(network), frames, {})


def _tower(model: HfModel, settings: VideoSettings, options: Mapping[str, Any]) -> HfTowerEncoder:
    reading = reading_of(NAME, model, options, pools=("pooler", "first", "mean"))
    encoder = _made(HfTowerEncoder, model, settings, reading.dim, 1, reading.spec)
    encoder.reading = reading
    return encoder


def _made(
    kind: type[Any], model: HfModel, settings: VideoSettings, dim: int, frames: int, spec: Mapping[str, Any]
) -> Any:
    image = image_settings(model.folder, settings)
    encoder = kind(
        NAME,
        model.network,
        settings,
        dim=dim,
        transform=image.transform,
        frames_per_row=frames,
        spec={**model.spec, **spec},
    )
    encoder.mean, encoder.std = image.mean, image.std
    return encoder


def _accepted(network: Any, folder: Path) -> Any:
    """Return the network if it looks at pictures of one size."""
    name = type(network).__name__
    if not is_pair(network) and (network.main_input_name != "pixel_values" or hasattr(network.config, "num_frames")):
        raise EncoderError(
            f"{folder} holds a {name}; expected a model of the CLIP family, or one of pictures such as DINOv2; "
            "for models of clips take hf-video"
        )
    if network.config.model_type in PATCHES_OF_ANY_SHAPE:
        raise EncoderError(
            f"{folder} holds a {name}, which takes pictures of any shape as patches; expected one of "
            "a fixed size, such as google/siglip2-base-patch16-224"
        )
    return network


def _dim(network: Any) -> int:
    """Return the numbers of a sentence's vector, and so of a row's: both lie in one space."""
    with torch.no_grad():
        ids = torch.zeros(1, 2, dtype=torch.long, device=next(network.parameters()).device)
        return int(pooled(network.get_text_features(input_ids=ids)).shape[-1])
