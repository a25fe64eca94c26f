"""Figures that tell answers from guesses: baselines without a model, and a model without the right video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.evaluate.baselines import WHOLE_VIDEO, fit_fixed_window
from mesm.pipeline.evaluate.metrics import Scores, evaluate_predictions
from mesm.pipeline.evaluate.predict import predict, protocol_of

if TYPE_CHECKING:
    from mesm.pipeline.data.frames import FrameTable
    from mesm.pipeline.evaluate.trained import TrainedModel


def baseline_scores(
    train: Sequence[Annotation],
    test: Sequence[Annotation],
    config: Config,
    durations: Mapping[str, float] | None = None,
) -> dict[str, Scores]:
    """Score the best fixed window, fitted on the training queries if there are any, and the whole video."""
    protocol = protocol_of(config)
    fixed = [fit_fixed_window(train, durations_s=durations)] if train else []
    return {
        baseline.name: evaluate_predictions(baseline.predict(test, durations), test, protocol)
        for baseline in (*fixed, WHOLE_VIDEO)
    }


def training_durations(train: Sequence[Annotation], config: Config, features: Path) -> dict[str, float]:
    """Seconds of the training videos: as annotated, else as long as their features are, if these are here."""
    durations = {a.video_id: a.duration_s for a in train if a.duration_s is not None}
    folder = open_streams(config.features.video, features)[0]
    unknown = {a.video_id for a in train} - set(durations)
    return durations | {v: folder.record(v).rows * config.dataset.clip_len for v in unknown if v in folder}


def control_scores(trained: TrainedModel, data: MomentData) -> dict[str, Scores]:
    """Score answers given without the video and with another video of the split."""
    scores = {"without the video": scores_with(data.frames.blanked(), trained, data)}
    if len(data.frames.lengths) > 1:
        scores["with another video"] = scores_with(data.frames.exchanged(), trained, data)
        if data.narrations is not None:
            told = data.with_other_narratives()
            found = predict(trained.network, told, trained.config)
            scores["with another narrative"] = evaluate_predictions(
                found, told.annotations, protocol_of(trained.config)
            )
    return scores


def scores_with(frames: FrameTable, trained: TrainedModel, data: MomentData) -> Scores:
    """Score the answers to a split's queries when these frames are shown in the place of its own."""
    shown = _with_durations(data).with_frames(frames)
    return evaluate_predictions(
        predict(trained.network, shown, trained.config), data.annotations, protocol_of(trained.config)
    )


def _with_durations(data: MomentData) -> MomentData:
    """Write durations that follow from the frames into the annotations, so that other frames do not change them."""
    fixed = data.with_frames(data.frames)
    fixed.annotations = [replace(a, duration_s=data.duration(i)) for i, a in enumerate(data.annotations)]
    return fixed
