"""How long videos are whose annotations do not say it, and moments that lie outside of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.targets import ROWS_SHARE_DURATION
from mesm.pipeline.config.schema import DatasetConfig

SHOWN = 5


def with_known_durations(
    annotations: Sequence[Annotation], folders: Sequence[FeatureFolder], config: DatasetConfig
) -> list[Annotation]:
    """State the durations that follow from the features, where the annotations state none and rows are pooled.

    Otherwise the rows that are left, which stand for `clip_len` seconds each, say how long the video is.
    """
    found = []
    for annotation in annotations:
        rows = _rows(annotation.video_id, folders)
        if annotation.duration_s is None and config.rows == "pool" and rows > config.max_rows and _is_timed(config):
            annotation = replace(annotation, duration_s=rows * config.clip_len)
        found.append(annotation)
    return found


def moments_outside(
    annotations: Sequence[Annotation], folders: Sequence[FeatureFolder], config: DatasetConfig
) -> tuple[list[Annotation], str]:
    """Leave out moments that begin when their video, as long as its features are, has ended, and say which.

    Only of videos whose duration no annotation states: the readers look after the others. Returns what is left, without
    the queries that have no moment any more, and a text for a warning, empty when there is nothing to warn of.
    """
    if not _is_timed(config):
        return list(annotations), ""
    kept, outside = [], []
    for annotation in annotations:
        if annotation.duration_s is not None or not annotation.moments:
            kept.append(annotation)
            continue
        length = _seconds(annotation.video_id, folders, config)
        inside = tuple(moment for moment in annotation.moments if moment[0] < length)
        if len(inside) < len(annotation.moments):
            late = next(moment for moment in annotation.moments if moment[0] >= length)
            outside.append(f"query {annotation.query_id}: {list(late)} of {annotation.video_id}, {length:g} s long")
        if len(inside) == len(annotation.moments):
            kept.append(annotation)
        elif inside:
            kept.append(replace(annotation, moments=inside))
    more = f" and {len(outside) - SHOWN} more" if len(outside) > SHOWN else ""
    return kept, f"{'; '.join(outside[:SHOWN])}{more}"


def _is_timed(config: DatasetConfig) -> bool:
    return config.clip_len != ROWS_SHARE_DURATION


def _rows(video: str, folders: Sequence[FeatureFolder]) -> int:
    """Rows that all streams of a video have."""
    return min(folder.record(video).rows for folder in folders)


def _seconds(video: str, folders: Sequence[FeatureFolder], config: DatasetConfig) -> float:
    """Seconds of a video: as measured when it was decoded, or at least as long as its rows are."""
    measured = [folder.record(video).duration_s or 0.0 for folder in folders]
    return max(_rows(video, folders) * config.clip_len, *measured)
