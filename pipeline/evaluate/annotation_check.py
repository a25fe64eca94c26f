"""What annotations hold, before anything is trained on them: counts, lengths, doubts, and what a guess reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.word_vectors import UNKNOWN, WordVectors
from mesm.datasets.text.words import split_words
from mesm.pipeline.config.schema import Config, TextFeatureConfig
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import WORD_TABLE_FILE
from mesm.pipeline.evaluate.baselines import WHOLE_VIDEO, fit_fixed_window
from mesm.pipeline.evaluate.metrics import MomentScores, evaluate_predictions
from mesm.pipeline.evaluate.postprocessing import temporal_iou
from mesm.pipeline.evaluate.protocols import Protocol
from mesm.pipeline.report.table import MetricsTable

FOLDS = 5
SHORT_S = 1.0
"""Moments below it are hard to find at a row a second, and are often slips."""
MOST_OF_VIDEO = 0.9
"""Share of the video from which a moment says nothing about when."""
DISAGREE = 0.3
"""IoU below which two moments of one sentence contradict each other."""


@dataclass(frozen=True)
class Doubt:
    """One thing to look at."""

    kind: str
    query_id: int | str
    video_id: str
    finding: str

    def __str__(self) -> str:
        return f"{self.kind}: query {self.query_id}, video {self.video_id}: {self.finding}"


@dataclass(frozen=True)
class AnnotationCheck:
    """What was found."""

    facts: dict[str, str]
    """By what they are."""
    doubts: list[Doubt]
    guesses: MetricsTable | None
    """Figures of answers without looking; None with too few videos for FOLDS, or without durations."""


def check_annotations(
    annotations: Sequence[Annotation], durations: Mapping[str, float], protocol: Protocol
) -> AnnotationCheck:
    """Look through the queries of a split; durations: seconds by video, where they are known."""
    moments = [(a, m) for a in annotations for m in a.moments]
    seconds = np.array([end - start for _, (start, end) in moments])
    videos = list(dict.fromkeys(a.video_id for a in annotations))
    said = Counter(a.query for a in annotations)
    facts = {
        "queries": f"{len(annotations):,}, {len(said):,} different sentences",
        "videos": f"{len(videos):,}, {len(annotations) / len(videos):.1f} queries each",
        "without a moment": str(sum(not a.moments for a in annotations)),
    }
    if len(seconds):
        facts["moments"] = f"{len(seconds):,}, {_spread(seconds)} s"
        told = Counter((a.video_id, moment) for a, moment in moments)
        facts["told several times"] = f"{sum(count > 1 for count in told.values()):,} of {len(told):,} places in videos"
    known = [(end - start) / durations[a.video_id] for a, (start, end) in moments if a.video_id in durations]
    if known:
        lengths = np.array([durations[v] for v in videos if v in durations])
        facts["duration of videos"] = f"{_spread(lengths)} s, unknown of {len(videos) - len(lengths)}"
        facts["share of the video"] = f"{_spread(100 * np.array(known))} %"
    doubts = [*_doubtful_moments(annotations, durations), *_contradictions(annotations)]
    return AnnotationCheck(facts, doubts, _guesses(annotations, durations, protocol))


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, (5, 50, 95))
    return f"median {middle:.1f}, nine tenths from {low:.1f} to {high:.1f}"


def _doubtful_moments(annotations: Sequence[Annotation], durations: Mapping[str, float]) -> Iterator[Doubt]:
    for a in annotations:
        duration = durations.get(a.video_id)
        for start, end in a.moments:
            length, place = end - start, f"{start:.1f} to {end:.1f} s"
            if length < SHORT_S:
                yield Doubt("short", a.query_id, a.video_id, f"{place}, {length:.2f} s")
            if duration is not None and length > MOST_OF_VIDEO * duration:
                yield Doubt("nearly the whole video", a.query_id, a.video_id, f"{place} of {duration:.1f} s")


def _contradictions(annotations: Sequence[Annotation]) -> Iterator[Doubt]:
    """Find queries of the same sentence about the same video whose moments contradict each other."""
    members: dict[tuple[str, str], list[Annotation]] = {}
    for a in annotations:
        if a.moments:
            members.setdefault((a.video_id, a.query), []).append(a)
    for (video, query), queries in members.items():
        for one, other in combinations(queries, 2):
            if temporal_iou(np.array(one.moments)[:, None], np.array(other.moments)[None]).max() < DISAGREE:
                yield Doubt("contradiction", one.query_id, video, f"{query!r} has another moment in {other.query_id}")


def _guesses(
    annotations: Sequence[Annotation], durations: Mapping[str, float], protocol: Protocol
) -> MetricsTable | None:
    """Score the best fixed window, each fifth of the videos by the window of the others, and the whole video."""
    asked = [a for a in annotations if a.moments and a.video_id in durations]
    videos = sorted({a.video_id for a in asked})
    if len(videos) < FOLDS:
        return None
    fold = {video: place % FOLDS for place, video in enumerate(videos)}
    guessed = []
    for number in range(FOLDS):
        inside = [a for a in asked if fold[a.video_id] == number]
        window = fit_fixed_window([a for a in asked if fold[a.video_id] != number], durations_s=durations)
        guessed += window.predict(inside, durations)
    found = {
        "best fixed window": evaluate_predictions(guessed, asked, protocol).full,
        WHOLE_VIDEO.name: evaluate_predictions(WHOLE_VIDEO.predict(asked, durations), asked, protocol).full,
    }
    shown = [t for t in (0.3, 0.5, 0.7) if t in protocol.r1_thresholds]
    rows = tuple((name, _row(scores, shown)) for name, scores in found.items())
    return MetricsTable((*(f"R1@{t:g}" for t in shown), "mIoU"), rows)


def _row(scores: MomentScores, shown: Sequence[float]) -> tuple[float, ...]:
    return (*(scores.r1[t] for t in shown), scores.miou)


def check_features(
    annotations: Sequence[Annotation], config: Config, features: Path
) -> tuple[dict[str, float], list[Doubt], Counter[str] | None]:
    """Hold queries against the features that the configuration reads.

    Returns seconds by video, as annotated or else as long as the features are; the doubts; and the words that a table
    of word vectors lacks, counted, None without such a table. FeatureError when features are not there.
    """
    folders = open_streams(config.features.video, features)
    durations = known_durations(annotations)
    for folder in folders:
        missing = {a.video_id for a in annotations if a.video_id in folder} - set(durations)
        durations |= {video: folder.record(video).rows * config.dataset.clip_len for video in missing}
    doubts = list(_doubtful_features(annotations, folders, durations))
    return durations, doubts, _unknown_words(annotations, config.features.text, features)


def _unknown_words(annotations: Sequence[Annotation], text: TextFeatureConfig, features: Path) -> Counter[str] | None:
    if not text_kind(text.encoder).is_table:
        return None
    table, unknown = WordVectors.load(features / WORD_TABLE_FILE), Counter[str]()
    for query in (a.query for a in annotations):
        words = split_words(query, text.words)
        unknown.update(word for word, row in zip(words, table.rows(words), strict=True) if row == UNKNOWN)
    return unknown


def known_durations(annotations: Sequence[Annotation]) -> dict[str, float]:
    """Seconds by video, of those that are annotated."""
    return {a.video_id: a.duration_s for a in annotations if a.duration_s is not None}


def _doubtful_features(
    annotations: Sequence[Annotation], folders: Sequence[FeatureFolder], durations: Mapping[str, float]
) -> Iterator[Doubt]:
    """Find videos without features, and moments that begin behind the end of their video."""
    for a in annotations:
        for folder in folders:
            if a.video_id not in folder:
                yield Doubt("without features", a.query_id, a.video_id, f"not in {folder.path.name}")
        duration = durations.get(a.video_id)
        for start, end in a.moments:
            if duration is not None and start >= duration:
                yield Doubt("behind the end", a.query_id, a.video_id, f"{start:.1f} to {end:.1f} of {duration:.1f} s")
