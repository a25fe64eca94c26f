"""One video file into features, for questions about it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.contracts import VideoEncoder
from mesm.extractors.errors import VideoError
from mesm.pipeline.config.schema import ExtractConfig
from mesm.pipeline.extract.encoders import feature_folder
from mesm.pipeline.extract.run import extract_videos
from mesm.pipeline.extract.videos import VideoItem
from mesm.pipeline.ground.answers import EncodedVideo


def encode_video(
    path: str | Path,
    encoders: Sequence[VideoEncoder],
    device: torch.device,
    settings: ExtractConfig,
    cache: Path | None = None,
) -> EncodedVideo:
    """Decode a video once and encode it with every encoder.

    cache: a folder of features in which to look first and to keep the result. Raises a VideoError that says why the
    file cannot be read.
    """
    if cache is not None:
        return _encode(Path(path), encoders, device, settings, cache)
    with tempfile.TemporaryDirectory(prefix="mesm-ground-") as folder:
        return _encode(Path(path), encoders, device, settings, Path(folder))


def _encode(
    path: Path, encoders: Sequence[VideoEncoder], device: torch.device, settings: ExtractConfig, root: Path
) -> EncodedVideo:
    folders = [feature_folder(root, encoder) for encoder in encoders]
    item = VideoItem(path.stem, path)
    summary = extract_videos(
        [item],
        encoders,
        folders,
        workers=1,
        batch_size=settings.batch_size,
        device=device,
        timeout_s=settings.timeout_s,
    )
    if summary.failed:
        raise VideoError(summary.failed[0].message)
    return read_encoded(path, item.video_id, folders)


def read_encoded(path: Path, video_id: str, folders: Sequence[FeatureFolder]) -> EncodedVideo:
    """Read a video's features back."""
    duration = folders[0].record(video_id).duration_s
    assert duration is not None
    streams = tuple(np.array(folder.read(video_id)["features"]) for folder in folders)
    return EncodedVideo(path, duration, streams)
