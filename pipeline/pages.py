"""The HTML page of one video: its frames along a time line, what was found, and the truth where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mesm.extractors.encoder import FrameTransform
from mesm.extractors.probing import probe
from mesm.extractors.resizing import apply_transform
from mesm.extractors.streams import open_stream
from mesm.pipeline import report
from mesm.pipeline.grounding import EncodedVideo, GroundingResult
from mesm.pipeline.tables import MetricsTable

THUMBNAILS = 12
THUMBNAIL_HEIGHT = 90


def thumbnails(path: Path, count: int = THUMBNAILS) -> list[tuple[float, np.ndarray]]:
    """Return (seconds, (height, width, 3) uint8) pictures, evenly spread over a video's time."""
    info = probe(path)
    seconds = info.timestamps * float(info.time_base)
    times = seconds[0] + (np.arange(count) + 0.5) / count * info.duration_s
    wanted = np.unique(np.searchsorted(seconds, times, side="right") - 1).tolist()
    height = min(THUMBNAIL_HEIGHT, info.height)
    size = (height, max(1, round(info.width * height / info.height)))
    transform = FrameTransform("device", short_side=None, exact=size, crop=size)
    pictures = []
    with open_stream(info) as stream:
        for number, picture in stream.pictures(wanted):
            if picture is not None:
                rgb = torch.from_numpy(picture.rgb())[None]
                pictures.append((float(seconds[number]), apply_transform(rgb, transform)[0].numpy()))
    return pictures


def grounding_figure(
    video: EncodedVideo,
    result: GroundingResult,
    pictures: Sequence[tuple[float, np.ndarray]],
    truth: Sequence[tuple[float, float]] | None = None,
) -> report.GroundingFigure:
    """Put one query's answer beside the video's frames."""
    times = (np.arange(len(result.saliency)) + 0.5) * result.row_s
    return report.GroundingFigure(
        query=result.query,
        duration_s=video.duration_s,
        windows=[(m.start_s, m.end_s, m.score) for m in result.moments],
        truth=truth,
        saliency=(times.tolist(), result.saliency.tolist()),
        thumbnails=pictures,
        video=video.path.name,
    )


def write_grounding_page(out: Path, video: EncodedVideo, result: GroundingResult) -> Path:
    """Write the page of one query about one video."""
    figure = grounding_figure(video, result, thumbnails(video.path))
    report.write_grounding_page(out, "Moment retrieval", video.path.name, [figure])
    return out


def write_demo_page(out: Path, figures: Sequence[report.GroundingFigure], subtitle: str, table: MetricsTable) -> Path:
    """Write the demo's page: some queries about a held-out video, and the figures over all held-out queries."""
    report.write_grounding_page(out, "mesm-pipeline demo", subtitle, figures, table)
    return out
