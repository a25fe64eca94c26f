"""Video models of transformers, several frames a row: VideoMAE, TimeSformer, ViViT, V-JEPA 2 and their kind.

Any checkpoint of `AutoModel` that takes clips (B, T, 3, H, W) and gives states of tokens. Options: `model`, a folder or
a hub id; `frames`, how many a clip has (default: as the model was trained; V-JEPA 2 takes other even numbers, too);
`span_s`, the seconds around a row's centre that they are spread over (default: the row's own length): they lie
span_s / frames apart; `layer` and `pool` (see `hf_states`; by default the mean of the last states). X-CLIP, which
knows texts too, is read by `hf`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mesm.extractors.contracts import FramePlan, VideoInfo
from mesm.extractors.decoding.sampling import clip_rows
from mesm.extractors.encoders.hf_folder import image_settings, is_pair, load_model
from mesm.extractors.encoders.hf_states import Reading, reading_of
from mesm.extractors.encoders.network_encoder import (
    NetworkVideoEncoder,
    VideoSettings,
    check_options,
    require_clean,
)
from mesm.extractors.errors import EncoderError
from mesm.extractors.weights.sources import WeightsRequest

NAME = "hf-video"
_INPUTS = ("pixel_values", "pixel_values_videos")
_FRAMES = ("num_frames", "frames_per_clip")
"""What configurations call the number of a clip's frames."""
_ANY_NUMBER = {"vjepa2"}
"""Models whose positions are computed, so that clips may have another number of frames than in training."""


class HfVideoEncoder(NetworkVideoEncoder):
    """Clips of frames around the centre of each row."""

    reading: Reading
    span_s: float
    given: dict[str, Any]
    """Arguments of the network beside its clips."""

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take the frames at the middles of equal parts of `span_s` seconds around each row's centre."""
        return FramePlan(clip_rows(info, self.clip_len_s, self.frames_per_row, self.span_s), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, T, H, W) clips into (B, dim)."""
        network: Any = self.network
        pixels = clips.transpose(1, 2).contiguous()
        return self.reading.vectors(network, **{network.main_input_name: pixels}, **self.given)


def build_encoder(request: WeightsRequest, settings: VideoSettings, options: Mapping[str, Any]) -> HfVideoEncoder:
    """Build the encoder of the folder or hub id that option `model`, or `weights`, names."""
    require_clean(NAME, settings)
    check_options(NAME, options, ("model", "frames", "span_s", "layer", "pool"))
    model = load_model(NAME, request, options.get("model"), settings.device, _accepted)
    reading = reading_of(NAME, model, options, pools=("mean", "first"))
    image = image_settings(model.folder, settings)
    span_s = options.get("span_s", settings.clip_len_s)
    if not (isinstance(span_s, int | float) and span_s > 0):
        raise EncoderError(f"encoder {NAME}: span_s is {span_s!r}; expected seconds above 0")
    encoder = HfVideoEncoder(
        NAME,
        model.network,
        settings,
        dim=reading.dim,
        transform=image.transform,
        frames_per_row=_frames(model.network.config, options.get("frames")),
        spec={**model.spec, **reading.spec, "span_s": float(span_s)},
    )
    encoder.mean, encoder.std = image.mean, image.std
    encoder.reading, encoder.span_s = reading, float(span_s)
    # V-JEPA 2's predictor says what hidden parts hold: nothing is hidden here.
    encoder.given = {"skip_predictor": True} if model.network.config.model_type == "vjepa2" else {}
    return encoder


def _frames(config: Any, wanted: Any) -> int:
    trained = next(int(getattr(config, name)) for name in _FRAMES if hasattr(config, name))
    if wanted is None or wanted == trained:
        return trained
    step = int(getattr(config, "tubelet_size", 1))
    if config.model_type not in _ANY_NUMBER:
        raise EncoderError(f"encoder {NAME}: frames is {wanted!r}; a {config.model_type} model takes {trained}")
    if type(wanted) is not int or wanted < step or wanted % step:
        raise EncoderError(f"encoder {NAME}: frames is {wanted!r}; expected a multiple of {step}")
    return wanted


def _accepted(network: Any, folder: Path) -> Any:
    """Return the network if it looks at clips."""
    if is_pair(network):
        raise EncoderError(f"{folder} holds a {type(network).__name__}, which knows texts, too; take encoder hf")
    if network.main_input_name not in _INPUTS or not any(hasattr(network.config, name) for name in _FRAMES):
        raise EncoderError(
            f"{folder} holds a {type(network).__name__}; expected a model of clips, such as VideoMAE or V-JEPA 2"
        )
    return network
