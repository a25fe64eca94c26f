"""What a run is trained and validated on, and the network with the sizes that follow from it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mesm.datasets.annotations.registry import Annotation
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.model import Mesm
from mesm.model.layers.inputs import Standardise
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.frames import FrameTable, check_durations
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.data.splits import training_splits
from mesm.pipeline.data.texts import TextSource, open_text
from mesm.pipeline.run.console import say


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
