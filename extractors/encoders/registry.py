"""Names of encoders, and how to build one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mesm.extractors.contracts import ResizeMode, SamplingMode, TextEncoder, VideoEncoder
from mesm.extractors.encoders.hf_presets import PRESETS, HfPreset
from mesm.extractors.encoders.network_encoder import Precision, VideoSettings
from mesm.extractors.errors import EncoderError
from mesm.extractors.weights.sources import WeightSources, WeightsRequest, local_path
from mesm.extractors.weights.table import WEIGHTS

Kind = Literal["video", "text"]


@dataclass(frozen=True)
class EncoderEntry:
    """One encoder that can be asked for by name."""

    name: str
    kind: Kind
    builder: str
    """`module:function`, imported when it is built, for some libraries take seconds to import."""
    weights: tuple[str, ...]
    """Names in the table of weights, the default first; empty where the model brings its own."""
    dim: int | None
    """Width of a row or token; None where it depends on the model."""
    clip_len_s: float | None
    """The usual seconds per row; None for text."""
    summary: str
    images: str = ""
    """Of a text encoder: the video encoder in whose space its sentence vectors lie, when both are of one model."""


_CLIP = ("openai-clip-vit-b-32",)

_ENTRIES = (
    EncoderEntry("clip", "video", "clip:build_image_encoder", _CLIP, 512, 2.0, "CLIP by open_clip, one frame"),
    EncoderEntry(
        "slowfast-8x8-r50",
        "video",
        "slowfast:build_encoder",
        ("slowfast-8x8-r50-caffe2", "slowfast-8x8-r50-pytorchvideo"),
        2304,
        2.0,
        "SlowFast 8x8 R50, 32 frames",
    ),
    EncoderEntry(
        "i3d-inception",
        "video",
        "i3d:build_inception_encoder",
        ("i3d-rgb-imagenet", "i3d-rgb-charades"),
        1024,
        1.0,
        "Inception I3D on RGB, windows at 24 fps",
    ),
    EncoderEntry(
        "i3d-r50", "video", "i3d:build_r50_encoder", ("i3d-r50-pytorchvideo",), 2048, 2.0, "I3D R50, 8 frames"
    ),
    EncoderEntry(
        "c3d",
        "video",
        "c3d:build_encoder",
        ("c3d-sports1m", "c3d-sports1m-caffe"),
        4096,
        1.0,
        "C3D fc6 or fc7, intervals of 128 frames",
    ),
    EncoderEntry("vgg16", "video", "vgg:build_encoder", ("vgg16-imagenet",), 4096, 1.0, "VGG-16 fc7, one frame"),
    EncoderEntry("hf", "video", "hf_image:build_encoder", (), None, 2.0, "image model of transformers, one frame"),
    EncoderEntry("hf-video", "video", "hf_video:build_encoder", (), None, 2.0, "video model of transformers, clips"),
    EncoderEntry("clip-text", "text", "clip:build_text_encoder", _CLIP, 512, None, "CLIP's token states", "clip"),
    EncoderEntry(
        "hf-text",
        "text",
        "hf_text:build_encoder",
        (),
        None,
        None,
        "token states of a text model of transformers",
        "hf",
    ),
    EncoderEntry("glove", "text", "glove:build_encoder", ("glove-6b-300d",), 300, None, "a vector per word"),
)

ENCODERS: Mapping[str, EncoderEntry] = {entry.name: entry for entry in _ENTRIES}


@dataclass(frozen=True)
class EncoderDescription:
    """One row of the list of encoders: an encoder with one of its weights."""

    name: str
    kind: Kind
    summary: str
    dim: int | None
    clip_len_s: float | None
    weights: str | None
    """Name in the table of weights, or of a preset; None where any other model can be named."""
    default: bool
    """Whether these weights are taken when none are named."""
    licence: str | None
    available: bool | None
    """Whether the weights can be used without a download; None where the model brings its own."""


def create_video_encoder(
    name: str,
    *,
    weights: str = "default",
    clip_len_s: float | None = None,
    sampling: SamplingMode = "clean",
    resize: ResizeMode = "device",
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    options: Mapping[str, Any] | None = None,
    sources: WeightSources | None = None,
    deferred: bool = False,
) -> VideoEncoder:
    """Build a video encoder by its name.

    `weights` is `default`, a name of the table of weights, `untrained:SEED`, or a file's path; `clip_len_s`
    the seconds per row (default: the encoder's usual one); `options` are those of the encoder's own builder;
    `deferred` leaves the network to be built when the first clip is encoded, where the encoder can.
    Raises EncoderError for an impossible request, WeightsError when the weights are not to be had.
    """
    entry = _entry(name, "video")
    seconds = entry.clip_len_s if clip_len_s is None else clip_len_s
    assert seconds is not None
    settings = VideoSettings(seconds, sampling, resize, _device(device), precision, deferred)
    return _builder(entry)(_request(entry, weights, sources), settings, options or {})


def create_text_encoder(
    name: str,
    *,
    weights: str = "default",
    device: str | torch.device = "cpu",
    options: Mapping[str, Any] | None = None,
    sources: WeightSources | None = None,
) -> TextEncoder:
    """Build a text encoder by its name; `weights` and errors as for `create_video_encoder`."""
    entry = _entry(name, "text")
    return _builder(entry)(_request(entry, weights, sources), _device(device), options or {})


def describe_encoders(sources: WeightSources | None = None) -> list[EncoderDescription]:
    """List every encoder with each of its weights; nothing is downloaded or loaded."""
    found = sources or WeightSources()
    rows: list[EncoderDescription] = []
    for entry in _ENTRIES:
        rows += [_describe(entry, weights, found) for weights in (entry.weights or (None,))]
        rows += [_describe_preset(entry, preset) for preset in PRESETS.values() if entry.name in preset.encoders]
    return rows


def _describe_preset(entry: EncoderEntry, preset: HfPreset) -> EncoderDescription:
    return EncoderDescription(
        name=entry.name,
        kind=entry.kind,
        summary=preset.hub_id,
        dim=preset.dim,
        clip_len_s=entry.clip_len_s,
        weights=preset.name,
        default=False,
        licence=preset.licence,
        available=None,
    )


def _describe(entry: EncoderEntry, weights: str | None, sources: WeightSources) -> EncoderDescription:
    return EncoderDescription(
        name=entry.name,
        kind=entry.kind,
        summary=entry.summary,
        dim=entry.dim,
        clip_len_s=entry.clip_len_s,
        weights=weights,
        default=weights is not None and weights == entry.weights[0],
        licence=WEIGHTS[weights].licence if weights else None,
        available=local_path(WEIGHTS[weights], sources) is not None if weights else None,
    )


def _entry(name: str, kind: Kind) -> EncoderEntry:
    entry = ENCODERS.get(name)
    if entry is None or entry.kind != kind:
        known = ", ".join(sorted(known for known, other in ENCODERS.items() if other.kind == kind))
        raise EncoderError(f"no {kind} encoder is called {name!r}; there are: {known}")
    return entry


def _request(entry: EncoderEntry, choice: str, sources: WeightSources | None) -> WeightsRequest:
    others = set(WEIGHTS) - set(entry.weights)
    if choice in others:
        fitting = ", ".join(entry.weights) or "none of the table"
        raise EncoderError(f"weights {choice} are not for encoder {entry.name}; for it are: {fitting}")
    return WeightsRequest(choice, sources or WeightSources())


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise EncoderError(f"no device is called {device!r}: {error}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise EncoderError(f"device {device!r} was asked for, but torch sees no GPU here; take cpu")
    return chosen


def _builder(entry: EncoderEntry) -> Any:
    module, function = entry.builder.split(":")
    return getattr(importlib.import_module(f"mesm.extractors.encoders.{module}"), function)
