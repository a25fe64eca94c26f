"""Models of transformers: from a folder, or the hub, to a network, its weights' identity and what its processor does.

No code of a checkpoint is run. Encoders of one model share one network while any of them lives. Every tensor of the
network must be in the file; of a model that is more than what is read of it, such as one with a head for a task, the
rest of the file is left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from mesm.extractors.contracts import FrameTransform, Smoothing
from mesm.extractors.encoders.hf_presets import PRESETS
from mesm.extractors.encoders.network_encoder import VideoSettings
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.converters import report_mismatch
from mesm.extractors.weights.hub_folders import digest, find_folder, read_network, settings_files, weight_files
from mesm.extractors.weights.sources import Untrained, WeightsRequest

_PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
_networks: WeakValueDictionary[tuple[str, ...], Any] = WeakValueDictionary()
"""By folder, device, weights and settings: those that are in use, so that both encoders of a model build it once."""
_BILINEAR, _BICUBIC = 2, 3
"""Pillow's numbers of filters, by which image processors name theirs."""
_BILINEAR_BY_DEFAULT = ("VideoMAE", "Siglip2", "Vivit", "VJEPA2", "DINOv3")
"""Image processors whose filter, where they name none, is not the bicubic one."""
_POOLER = "pooler."


@dataclass(frozen=True)
class HfModel:
    """A network of transformers, and where it came from."""

    folder: Path
    network: Any
    spec: dict[str, Any]
    """Identity of the weights, and of the settings: for the encoder's spec."""
    without_pooler: bool = False
    """The file has no weights for the network's pooling layer, so that nothing may be read from it."""


@dataclass(frozen=True)
class ImageSettings:
    """What the model's own image processor does with a frame."""

    transform: FrameTransform
    mean: tuple[float, ...]
    """To be subtracted from pixels of 0 to 1."""
    std: tuple[float, ...]


def load_model(
    encoder: str,
    request: WeightsRequest,
    model: str | None,
    device: torch.device,
    accept: Callable[[Any, Path], Any],
    dtype: torch.dtype = torch.float32,
) -> HfModel:
    """Load the folder, preset or hub id that `model`, or `weights`, names; `accept` returns the part to use, or raises.

    Raises EncoderError when no model is named, WeightsError when it cannot be had, loaded, or lacks weights.
    """
    untrained = request.untrained()
    chosen = model or (None if untrained or request.choice == "default" else request.choice)
    if chosen is None:
        raise EncoderError(f"encoder {encoder} needs the option model: {_expected(encoder)}")
    if chosen in PRESETS and not Path(chosen).is_dir():
        chosen = PRESETS[chosen].hub_id
    folder = find_folder(chosen, request.sources.download, with_weights=untrained is None)
    identity = f"sha256:{digest(weight_files(folder))}" if untrained is None else untrained.identity
    spec = {"weights": identity, "settings": digest(settings_files(folder))}
    key = (str(folder.resolve()), str(device), str(dtype), *spec.values())
    network = _networks.get(key)
    if network is None:
        network = _networks[key] = _network(folder, untrained).to(dtype)
    return HfModel(folder, accept(network, folder), spec, bool(getattr(network, "without_pooler", False)))


def _expected(encoder: str) -> str:
    names = ", ".join(name for name, preset in PRESETS.items() if encoder in preset.encoders)
    return f"a folder, the id of a model on the hub, or one of {names}"


def _network(folder: Path, untrained: Untrained | None) -> Any:
    """Build the network of a folder."""
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    # Bars of its own for every file, also where nobody watches.
    logging.disable_progress_bar()
    try:
        if untrained is None:
            network = _pretrained(AutoModel, folder)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(untrained.seed)
                config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
                network = AutoModel.from_config(config)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise WeightsError(f"{folder} is not a model that transformers can load: {error}") from error
    return network


def is_pair(network: Any) -> bool:
    """Whether texts and pictures, or clips, go into one space."""
    sees = hasattr(network, "get_image_features") or hasattr(network, "get_video_features")
    return sees and hasattr(network, "get_text_features")


def _pretrained(model_class: Any, folder: Path) -> Any:
    read = read_network(model_class, folder)
    network, missing, extra = read.network, read.missing, read.extra
    if not is_pair(network):
        # A model with another head, or none: what is not read of the file, and what of the network is not read.
        network.without_pooler = any(name.startswith(_POOLER) for name in missing)
        missing, extra = [name for name in missing if not name.startswith(_POOLER)], []
    report_mismatch(str(folder), missing, extra, read.reshaped)
    return network


def image_settings(folder: Path, settings: VideoSettings) -> ImageSettings:
    """Read what the checkpoint's image or video processor does; EncoderError when it cannot be done here."""
    found = _processor(folder)
    try:
        return _image_settings(folder, found, settings)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise EncoderError(f"the image processor of {folder} has values that cannot be used: {error!r}") from error


def _image_settings(folder: Path, found: Mapping[str, Any], settings: VideoSettings) -> ImageSettings:
    # Pixels * factor - offset, from which the mean is taken: the same as the mean and deviation of pixels of 0 to 1.
    factor = 255 * float(found.get("rescale_factor", 1 / 255)) if found.get("do_rescale", True) else 255.0
    offset = 1.0 if found.get("offset") else 0.0
    mean, std = found["image_mean"], found["image_std"]
    if not found.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    if not (len(mean) == len(std) == 3 and all(map(math.isfinite, (*mean, *std))) and min(std) > 0):
        raise ValueError(f"image_mean {mean} and image_std {std}; expected three numbers each, image_std above 0")
    return ImageSettings(
        _transform(folder, found, settings),
        tuple((value + offset) / factor for value in mean),
        tuple(value / factor for value in std),
    )


def _processor(folder: Path) -> dict[str, Any]:
    for name in _PROCESSOR_FILES:
        path = folder / name
        if path.is_file():
            try:
                settings = json.loads(path.read_text(encoding="utf-8-sig"))
                settings = settings.get("video_processor", settings.get("image_processor", settings))
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
    kind = str(image.get("image_processor_type", image.get("video_processor_type", "")))
    number = image.get("resample", _BILINEAR if kind.startswith(_BILINEAR_BY_DEFAULT) else _BICUBIC)
    if number not in (_BILINEAR, _BICUBIC):
        raise EncoderError(f"the image processor of {folder} has filter {number}; expected 2, bilinear, or 3, bicubic")
    return "bilinear" if number == _BILINEAR else "bicubic"
