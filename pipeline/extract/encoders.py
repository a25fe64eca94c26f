"""The encoders that a configuration asks for, and the feature folders that they fill."""

from __future__ import annotations

from pathlib import Path

import torch

from mesm.datasets.shards.fingerprints import fingerprint
from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.contracts import TextEncoder, VideoEncoder
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.extractors.weights.sources import WeightSources
from mesm.pipeline.config.schema import Config, TextFeatureConfig, VideoFeatureConfig


def build_video_encoder(
    config: VideoFeatureConfig,
    device: torch.device,
    sources: WeightSources,
    precision: str = "",
    deferred: bool = False,
) -> VideoEncoder:
    """Build the encoder of one stream; errors of the extractors say which weights are missing and where to get them.

    deferred: its network may wait for the first clip, as features may be there already.
    """
    return create_video_encoder(
        config.encoder,
        weights=config.weights,
        clip_len_s=config.clip_len,
        sampling=config.sampling,
        resize=config.resize,
        device=device,
        precision=precision or config.precision,  # type: ignore[arg-type]
        options=config.options,
        sources=sources,
        deferred=deferred,
    )


def build_video_encoders(
    config: Config, device: torch.device, sources: WeightSources, deferred: bool = False
) -> list[VideoEncoder]:
    """Build the encoder of every video stream of a configuration, in order."""
    return [build_video_encoder(stream, device, sources, deferred=deferred) for stream in config.features.video]


def build_text_encoder(config: TextFeatureConfig, device: torch.device, sources: WeightSources) -> TextEncoder:
    """Build the text encoder of a configuration."""
    return create_text_encoder(
        config.encoder, weights=config.weights, device=device, options=config.options, sources=sources
    )


def feature_folder(root: Path, encoder: VideoEncoder | TextEncoder) -> FeatureFolder:
    """Open or create the folder of an encoder's features below `root`."""
    return FeatureFolder.create_or_open(root, encoder.name, encoder.spec)


def encoder_fingerprint(encoder: VideoEncoder | TextEncoder) -> str:
    """Fingerprint of the features that an encoder makes."""
    return fingerprint(encoder.spec)
