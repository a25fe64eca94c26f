"""What a run is trained and validated on: splits, features, the network's sizes, and which videos meet in a batch."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mesm.datasets.annotations import Annotation, read_annotations
from mesm.datasets.grouping import split_by_video
from mesm.datasets.shards import FeatureFolder
from mesm.datasets.vocabulary import Vocabulary
from mesm.model import Mesm
from mesm.model.layers import Standardise
from mesm.pipeline.batching import FrameTable, MomentData, check_durations
from mesm.pipeline.config import Config
from mesm.pipeline.console import say
from mesm.pipeline.errors import PipelineError
from mesm.pipeline.queries import TextSource, open_streams, open_text

LENGTH_POOL = 8
"""Batches that `group_by_length` sorts together."""


@dataclass
class TrainingData:
    """What a run is trained and validated on."""

    train: MomentData
    validation: MomentData
    text: TextSource
    vocabulary: Vocabulary
    fingerprints: dict[str, str]
    validation_name: str

    @property
    def queries_hash(self) -> str:
        """SHA-256 of the queries that are trained and validated on, with all that is known of them."""
        queries = [*self.train.annotations, None, *self.validation.annotations]
        return hashlib.sha256(repr(queries).encode()).hexdigest()


def load_split(config: Config, annotations: Path, split: str) -> list[Annotation]:
    """Read the annotations of a split."""
    return read_annotations(config.dataset.reader, annotations, split)


def training_splits(
    config: Config, annotations: Path, select_on: str = ""
) -> tuple[list[Annotation], list[Annotation], str]:
    """Return training and validation queries and what the latter are, for the log."""
    dataset = config.dataset
    train = load_split(config, annotations, dataset.train_split)
    chosen = select_on or dataset.validation_split
    if chosen:
        return train, load_split(config, annotations, chosen), chosen
    if len({annotation.video_id for annotation in train}) < 2:
        raise PipelineError(
            f"the {dataset.train_split} split has a single video, so none can be held back to choose the best epoch; "
            "name a split for that by dataset.validation_split"
        )
    kept, held = split_by_video(train, dataset.validation_fraction, seed=dataset.validation_seed, by=dataset.group_by)
    name = f"{dataset.validation_fraction:.0%} of the {dataset.train_split} videos (seed {dataset.validation_seed})"
    return kept, held, name


def load_training_data(
    config: Config, annotations: Path, features: Path, device: torch.device, select_on: str = ""
) -> TrainingData:
    """Read annotations and features, prepare every video and query once."""
    train, validation, name = training_splits(config, annotations, select_on)
    folders = open_streams(config.features.video, features)
    warning = check_durations(folders, [*train, *validation]) if _folders_hold(folders, [*train, *validation]) else None
    if warning:
        say(f"warning: {warning}")
    videos = [annotation.video_id for annotation in [*train, *validation]]
    frames = FrameTable.load(folders, videos, config.dataset, device)
    text, text_fingerprint = open_text(features, config.features.text, config.dataset)
    vocabulary = text.make_vocabulary([a.query for a in train], annotations)
    fingerprints = {folder.name: folder.fingerprint for folder in folders}
    return TrainingData(
        train=MomentData(train, frames, text, vocabulary, config.dataset, config.train.seed),
        validation=MomentData(validation, frames, text, vocabulary, config.dataset),
        text=text,
        vocabulary=vocabulary,
        fingerprints={**fingerprints, config.features.text.encoder: text_fingerprint},
        validation_name=name,
    )


def _folders_hold(folders: Sequence[FeatureFolder], annotations: Sequence[Annotation]) -> bool:
    return all(annotation.video_id in folder for folder in folders for annotation in annotations)


def build_model(config: Config, data: TrainingData) -> Mesm:
    """Build the network with the sizes that the features give it."""
    torch.manual_seed(config.train.seed)
    sizes = {
        "video_dim": data.train.frames.dim,
        "text_dim": data.text.dim,
        "word_classes": data.vocabulary.classes,
    }
    model = Mesm(dataclasses.replace(config.model, **sizes))
    if isinstance(model.video_scaling, Standardise) and isinstance(model.text_scaling, Standardise):
        videos = dict.fromkeys(annotation.video_id for annotation in data.train.annotations)
        model.video_scaling.measure(data.train.frames.take([video])[0] for video in videos)
        model.text_scaling.measure([data.train.words_of_all()])
    return model


def batches_by_length(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
    """Exchange groups between neighbouring batches so that each holds videos of similar length.

    Batches are taken `LENGTH_POOL` at a time, or a quarter of them if they are few, so which groups meet still changes
    from epoch to epoch. Within a pool, batches keep a random order: that of their shortest videos in `batches`.
    """
    size = min(LENGTH_POOL, max(len(batches) // 4, 2))
    result: list[list[int]] = []
    for start in range(0, len(batches), size):
        pool = batches[start : start + size]
        drawn = [group for batch in pool for group in batch]
        ordered = iter(sorted(drawn, key=lambda group: lengths[group]))
        similar = [list(itertools.islice(ordered, len(batch))) for batch in pool]
        place = {group: number for number, group in enumerate(drawn)}
        result += sorted(similar, key=lambda batch: place[batch[0]])
    return result
