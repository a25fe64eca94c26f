"""Names of encoders, and how to build one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mesm.extractors.encoder import ResizeMode, SamplingMode, TextEncoder, VideoEncoder
from mesm.extractors.errors import EncoderError
from mesm.extractors.inference import Precision, VideoSettings
from mesm.extractors.weights import WeightSources, resolve_weights

Kind = Literal["video", "text"]


@dataclass(frozen=True)
class EncoderEntry:
    """One encoder that can be asked for by name."""

    name: str
    kind: Kind
    builder: str
    """`module:function`, imported when it is built, for some libraries take seconds to import."""
    default_weights: str | None
    dim: int
    """Of the default weights."""
    clip_len_s: float | None
    """The usual seconds per row; None for text."""


_ENTRIES = (
    EncoderEntry("clip", "video", "clip:build_image_encoder", "openai-clip-vit-b-32", 512, 2.0),
    EncoderEntry("clip-text", "text", "clip:build_text_encoder", "openai-clip-vit-b-32", 512, None),
)

ENCODERS: Mapping[str, EncoderEntry] = {entry.name: entry for entry in _ENTRIES}


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
) -> VideoEncoder:
    """Build a video encoder by its name.

    `weights` is `default`, a name of the table of weights, `untrained:SEED`, or a file's path; `clip_len_s`
    the seconds per row (default: the encoder's usual one). Raises EncoderError for an impossible request,
    WeightsError when the weights are not to be had.
    """
    entry = _entry(name, "video")
    assert entry.clip_len_s is not None
    seconds = entry.clip_len_s if clip_len_s is None else clip_len_s
    settings = VideoSettings(seconds, sampling, resize, torch.device(device), precision)
    found = resolve_weights(weights, entry.default_weights, sources or WeightSources())
    return _builder(entry)(found, settings, options or {})


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
    found = resolve_weights(weights, entry.default_weights, sources or WeightSources())
    return _builder(entry)(found, torch.device(device), options or {})


def _entry(name: str, kind: Kind) -> EncoderEntry:
    entry = ENCODERS.get(name)
    if entry is None or entry.kind != kind:
        known = ", ".join(sorted(known for known, other in ENCODERS.items() if other.kind == kind))
        raise EncoderError(f"no {kind} encoder is called {name!r}; there are: {known}")
    return entry


def _builder(entry: EncoderEntry) -> Any:
    module, function = entry.builder.split(":")
    return getattr(importlib.import_module(f"mesm.extractors.{module}"), function)
