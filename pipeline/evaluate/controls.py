"""Figures that tell answers from guesses: baselines without a model, and a model without the right video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.evaluate.baselines import WHOLE_VIDEO, fit_fixed_window
from mesm.pipeline.evaluate.grounding_gap import EXCHANGES, GroundingGap, first_overlaps, grounding_gap
from mesm.pipeline.evaluate.metrics import HighlightScores, MomentScores, Scores, evaluate_predictions
from mesm.pipeline.evaluate.predict import predict, protocol_of
from mesm.pipeline.evaluate.predictions import Prediction

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


@dataclass(frozen=True)
class Controls:
    """What a network answers when something that it needs is not there."""

    without_video: Scores
    """Every frame is zero."""
    other_video: list[Scores]
    """Each video is exchanged for another one of the split, once an exchange; empty for a lone video."""
    gap: GroundingGap | None
    """What is lost by that; None for a lone video."""
    other_sentence: Scores | None
    """Each query is exchanged for another one about the same video; None where no video has two sentences."""

    other_narrative: Scores | None = None
    """Each video is told as another one, where the network reads narratives."""

    def rows(self) -> dict[str, Scores]:
        """Return what tables show, by what to call it; another video is the mean over its exchanges."""
        rows = {"without the video": self.without_video}
        if self.other_video:
            rows["with another video"] = mean_scores(self.other_video)
        if self.other_sentence is not None:
            rows["with another sentence"] = self.other_sentence
        if self.other_narrative is not None:
            rows["with another narrative"] = self.other_narrative
        return rows


def control_scores(trained: TrainedModel, data: MomentData, predictions: Sequence[Prediction]) -> Controls:
    """Score answers given without the video, with other videos of the split, and to other sentences of the video.

    predictions: the answers to the queries as they are, which the others are held against.
    """
    protocol, others, overlaps = protocol_of(trained.config), [], []
    for seed in range(EXCHANGES if len(data.frames.lengths) > 1 else 0):
        answers = answers_with(data.frames.exchanged(seed), trained, data)
        others.append(evaluate_predictions(answers, data.annotations, protocol))
        overlaps.append(first_overlaps(answers, data.annotations))
    gap = None
    if overlaps:
        videos = [annotation.video_id for annotation in data.annotations]
        gap = grounding_gap(first_overlaps(predictions, data.annotations), np.stack(overlaps), videos)
    blind = evaluate_predictions(answers_with(data.frames.blanked(), trained, data), data.annotations, protocol)
    told = None
    if data.narrations is not None and others:
        found = predict(trained.network, data.with_other_narratives(), trained.config)
        told = evaluate_predictions(found, data.annotations, protocol)
    return Controls(blind, others, gap, _other_sentence_scores(trained, data), told)


def answers_with(frames: FrameTable, trained: TrainedModel, data: MomentData) -> list[Prediction]:
    """Answer a split's queries when these frames are shown in the place of its own."""
    return predict(trained.network, _with_durations(data).with_frames(frames), trained.config)


def _other_sentence_scores(trained: TrainedModel, data: MomentData) -> Scores | None:
    """Score the answers to another sentence about the same video, of the queries that have one."""
    other = other_sentences(data.annotations)
    asked = [i for i, one in enumerate(other) if one != i]
    if not any(data.annotations[i].moments for i in asked):
        return None
    predictions = predict(trained.network, data.with_sentences(other), trained.config)
    truth = [data.annotations[i] for i in asked]
    return evaluate_predictions([predictions[i] for i in asked], truth, protocol_of(trained.config))


def other_sentences(annotations: Sequence[Annotation]) -> list[int]:
    """Return for each query the place of the next one about the same video that says something else, else its own."""
    members: dict[str, list[int]] = {}
    for place, annotation in enumerate(annotations):
        members.setdefault(annotation.video_id, []).append(place)
    chosen = list(range(len(annotations)))
    for places in members.values():
        for rank, place in enumerate(places):
            following = places[rank + 1 :] + places[:rank]
            said = annotations[place].query
            chosen[place] = next((i for i in following if annotations[i].query != said), place)
    return chosen


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Return the mean of several evaluations of the same queries."""
    first = scores[0]
    moments: dict[str, MomentScores | None] = {}
    for name, one in first.moments.items():
        found = [entry for s in scores if (entry := s.moments[name]) is not None]
        moments[name] = (
            None
            if one is None
            else replace(
                one,
                r1={t: float(np.mean([f.r1[t] for f in found])) for t in one.r1},
                miou=float(np.mean([f.miou for f in found])),
                ap={t: float(np.mean([f.ap[t] for f in found])) for t in one.ap},
            )
        )
    highlights = (
        None
        if first.highlights is None
        else {
            level: HighlightScores(
                ap=float(np.mean([s.highlights[level].ap for s in scores if s.highlights is not None])),
                hit1=float(np.mean([s.highlights[level].hit1 for s in scores if s.highlights is not None])),
            )
            for level in first.highlights
        }
    )
    return replace(first, moments=moments, highlights=highlights)


def _with_durations(data: MomentData) -> MomentData:
    """Write durations that follow from the frames into the annotations, so that other frames do not change them."""
    fixed = data.with_frames(data.frames)
    fixed.annotations = [replace(a, duration_s=data.duration(i)) for i, a in enumerate(data.annotations)]
    return fixed
