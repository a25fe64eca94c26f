"""CLIP-, SigLIP- and X-CLIP-family models of transformers: features of frames, or of clips, and of texts.

Any checkpoint whose model has `get_image_features` (one frame a row) or `get_video_features` (as many as the model
takes), and `get_text_features`, from a local folder as `save_pretrained` writes it, or from the hub. No code of a
checkpoint is run. The encoders of images and of texts share one network while either of them lives.

Image: size, crop, filter, mean and standard deviation of the checkpoint's own image processor, RGB / 255; output (B,
dim) of `get_image_features`, not L2-normalised. Text: the checkpoint's own tokenizer, cut to the model's
context; output: the text model's last hidden states of the tokens that are not padding, and the vector of
`get_text_features`. SigLIP sees its padding, as it was trained; the other families are masked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from mesm.extractors.contracts import FramePlan, FrameTransform, Smoothing, TextFeatures, VideoInfo
from mesm.extractors.decoding.sampling import image_rows, window_rows
from mesm.extractors.encoders.network_encoder import (
    NetworkTextEncoder,
    NetworkVideoEncoder,
    VideoSettings,
    check_options,
    inference,
    require_clean,
)
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.hub_folders import digest, find_folder, load_network, settings_files, weight_files
from mesm.extractors.weights.sources import Untrained, WeightsRequest

VIDEO_NAME, TEXT_NAME = "hf", "hf-text"

_OPTIONS = ("model",)
_networks: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()
"""By folder, device, weights and settings: those that are in use, so that both encoders of a model build it once."""
PATCHES_OF_ANY_SHAPE = {"siglip2"}
_BILINEAR, _BICUBIC = 2, 3
"""Pillow's numbers of filters, by which image processors name theirs."""
_BILINEAR_BY_DEFAULT = ("VideoMAE", "Siglip2")
"""Image processors whose filter, where they name none, is not the bicubic one."""


class HfImageEncoder(NetworkVideoEncoder):
    """One frame per row through the image tower: what `get_image_features` gives."""

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take the frame at each clip's centre."""
        return FramePlan(image_rows(info, self.clip_len_s), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, 1, H, W) images into (B, dim)."""
        network: Any = self.network
        return _pooled(network.get_image_features(pixel_values=clips.squeeze(2)))


class HfClipEncoder(NetworkVideoEncoder):
    """As many frames per row as the model takes, spread over the clip: what `get_video_features` gives."""

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take the frames at the middles of equal parts of each clip."""
        return FramePlan(window_rows(info, self.clip_len_s, self.frames_per_row), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, T, H, W) clips into (B, dim)."""
        network: Any = self.network
        return _pooled(network.get_video_features(pixel_values=clips.transpose(1, 2)))


class HfTextEncoder(NetworkTextEncoder):
    """Sentences through the text tower: last hidden states, token ids and what `get_text_features` gives."""

    name = TEXT_NAME

    def __init__(self, network: Any, tokenizer: Any, device: torch.device, spec: Mapping[str, Any]) -> None:
        super().__init__(device, int(network.config.text_config.hidden_size), spec)
        self.network = network.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.max_tokens = int(network.config.text_config.max_position_embeddings)
        self.special_tokens = int(tokenizer.num_special_tokens_to_add())
        self.sees_padding = "siglip" in network.config.model_type

    def encode_batch(self, texts: list[str]) -> list[TextFeatures]:
        """Encode sentences together; one longer than the model's context is cut by its tokenizer."""
        batch = self.tokenizer(
            texts,
            padding="max_length" if self.sees_padding else True,
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=True,
            return_tensors="pt",
        )
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        states, pooled = self.states(ids.to(self.device), mask.to(self.device))
        cut = [len(whole) > self.max_tokens for whole in self.tokenizer(texts, verbose=False)["input_ids"]]
        rows = zip(states.cpu(), ids, mask, pooled.cpu(), cut, strict=True)
        return [
            TextFeatures(tokens[kept].numpy(), row_ids[kept].numpy(), vector.numpy().copy(), is_cut)
            for tokens, row_ids, kept, vector, is_cut in rows
        ]

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return last states (B, L, dim) and sentence vectors (B, pooled dim) of ids and mask (B, L)."""
        captured: list[torch.Tensor] = []
        hook = self.network.text_model.register_forward_hook(
            lambda _module, _inputs, output: captured.append(output.last_hidden_state)
        )
        attention = {} if self.sees_padding else {"attention_mask": mask.long()}
        try:
            with inference(self.device, "fp32"):
                pooled = _pooled(self.network.get_text_features(input_ids=ids, **attention))
        finally:
            hook.remove()
        return captured[0], pooled


def _pooled(output: Any) -> torch.Tensor:
    """Return the projected vectors: transformers 4 gives them alone, 5 inside an object."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def build_image_encoder(
    request: WeightsRequest, settings: VideoSettings, options: Mapping[str, Any]
) -> HfImageEncoder | HfClipEncoder:
    """Build the encoder of images, or of clips, of the folder or hub id that option `model`, or `weights`, names."""
    require_clean(VIDEO_NAME, settings)
    folder, network, spec = _load(VIDEO_NAME, request, options, settings.device)
    image = _image_settings(folder)
    transform = _transform(folder, image, settings)
    clips = not hasattr(network, "get_image_features")
    frames = int(network.config.vision_config.num_frames) if clips else 1
    kind = HfClipEncoder if clips else HfImageEncoder
    encoder = kind(
        VIDEO_NAME, network, settings, dim=_dim(network), transform=transform, frames_per_row=frames, spec=spec
    )
    encoder.mean, encoder.std = tuple(image["image_mean"]), tuple(image["image_std"])
    return encoder


def _dim(network: Any) -> int:
    """Return the numbers of a sentence's vector, and so of a row's: both lie in one space."""
    with torch.no_grad():
        ids = torch.zeros(1, 2, dtype=torch.long, device=next(network.parameters()).device)
        return int(_pooled(network.get_text_features(input_ids=ids)).shape[-1])


def build_text_encoder(request: WeightsRequest, device: torch.device, options: Mapping[str, Any]) -> HfTextEncoder:
    """Build the text encoder; the model is named as for the image encoder."""
    from transformers import AutoTokenizer

    folder, network, spec = _load(TEXT_NAME, request, options, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(f"{folder} holds no tokenizer that can be read: {error}") from error
    return HfTextEncoder(network, tokenizer, device, spec)


def _load(
    name: str, request: WeightsRequest, options: Mapping[str, Any], device: torch.device
) -> tuple[Path, Any, dict[str, Any]]:
    """Return the model's folder, the network and what the spec says of both."""
    check_options(name, options, _OPTIONS)
    untrained = request.untrained()
    chosen = options.get("model") or (None if untrained or request.choice == "default" else request.choice)
    if chosen is None:
        raise EncoderError(f"encoder {name} needs the option model: a folder, or the id of a model on the hub")
    folder = find_folder(chosen, request.sources.download, with_weights=untrained is None)
    identity = f"sha256:{digest(weight_files(folder))}" if untrained is None else untrained.identity
    spec = {"weights": identity, "settings": digest(settings_files(folder))}
    key = (str(folder.resolve()), str(device), *spec.values())
    network = _networks.get(key)
    if network is None:
        network = _networks[key] = _network(folder, untrained)
    return folder, network, spec


def _network(folder: Path, untrained: Untrained | None) -> Any:
    """Build the network of a folder, in float32."""
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    # Bars of its own for every file, also where nobody watches.
    logging.disable_progress_bar()
    try:
        if untrained is None:
            network = load_network(AutoModel, folder)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(untrained.seed)
                config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
                network = AutoModel.from_config(config)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder} is not a model that transformers can load: {error}") from error
    sees = hasattr(network, "get_image_features") or hasattr(network, "get_video_features")
    if not sees or not hasattr(network, "get_text_features"):
        raise EncoderError(f"{folder} holds a {type(network).__name__}; expected a model of the CLIP family")
    if network.config.model_type in PATCHES_OF_ANY_SHAPE:
        raise EncoderError(
            f"{folder} holds a {type(network).__name__}, which takes pictures of any shape as patches; expected one of "
            "a fixed size, such as google/siglip2-base-patch16-224"
        )
    return network.float()


def _image_settings(folder: Path) -> dict[str, Any]:
    """Return what the checkpoint's image processor does."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            try:
                settings = json.loads(path.read_text(encoding="utf-8-sig"))
                settings = settings.get("image_processor", settings)
            except (ValueError, RecursionError, AttributeError) as error:
                raise EncoderError(f"{path} cannot be read as an object of JSON: {error}") from error
            if {"size", "image_mean", "image_std"} <= set(settings):
                return settings
    raise EncoderError(f"{folder} holds no preprocessor_config.json with size, image_mean and image_std")


def _transform(folder: Path, image: Mapping[str, Any], settings: VideoSettings) -> FrameTransform:
    size, crop = image["size"], image.get("crop_size")
    if isinstance(size, int):
        size = {"shortest_edge": size}
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    cropped = (crop["height"], crop["width"]) if crop and image.get("do_center_crop", True) else None
    smoothing = _smoothing(folder, image)
    if "shortest_edge" in size and cropped:
        short_side = int(size["shortest_edge"])
        return FrameTransform(settings.resize, short_side=short_side, exact=None, crop=cropped, smoothing=smoothing)
    if "height" in size and "width" in size:
        exact = (size["height"], size["width"])
        return FrameTransform(settings.resize, short_side=None, exact=exact, crop=cropped or exact, smoothing=smoothing)
    raise EncoderError(f"the image processor of {folder} resizes to {size}; expected a fixed size")


def _smoothing(folder: Path, image: Mapping[str, Any]) -> Smoothing:
    """Return the filter that the image processor scales with."""
    kind = str(image.get("image_processor_type", ""))
    number = image.get("resample", _BILINEAR if kind.startswith(_BILINEAR_BY_DEFAULT) else _BICUBIC)
    if number not in (_BILINEAR, _BICUBIC):
        raise EncoderError(f"the image processor of {folder} has filter {number}; expected 2, bilinear, or 3, bicubic")
    return "bilinear" if number == _BILINEAR else "bicubic"
