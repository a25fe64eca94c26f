"""The demo's page: frames of a video along a time line, what was found, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mesm.pipeline.evaluate.postprocessing import temporal_iou
from mesm.pipeline.ground.answers import EncodedVideo, GroundingResult, Moment
from mesm.pipeline.report import grounding_page as report
from mesm.pipeline.report.table import MetricsTable


def grounding_figure(
    video: EncodedVideo,
    result: GroundingResult,
    pictures: Sequence[tuple[float, np.ndarray]],
    truth: Sequence[tuple[float, float]] | None = None,
) -> report.GroundingFigure:
    """Put one query's answer beside the video's frames."""
    return report.GroundingFigure(
        query=result.query,
        duration_s=video.duration_s,
        windows=[(m.start_s, m.end_s, m.score) for m in result.moments],
        truth=truth,
        saliency=(result.times.tolist(), result.saliency.tolist()),
        thumbnails=pictures,
        video=video.path.name,
        overlap=_overlap(result.moments, truth),
    )


def _overlap(moments: Sequence[Moment], truth: Sequence[tuple[float, float]] | None) -> float | None:
    """Return the IoU of the best answer with the annotated moment that it fits best."""
    if not moments or not truth:
        return None
    return float(temporal_iou(np.array([moments[0].start_s, moments[0].end_s]), np.array(truth, float)).max())


def write_demo_page(out: Path, figures: Sequence[report.GroundingFigure], subtitle: str, table: MetricsTable) -> Path:
    """Write the demo's page: some queries about a held-out video, and the figures over all held-out queries."""
    report.write_grounding_page(out, "mesm-pipeline demo", subtitle, figures, table)
    return out
