"""What a run is trained and validated on, and the network with the sizes that follow from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mesm.datasets.annotations.records import Annotation, shorten
from mesm.datasets.narration import NARRATIONS
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.model.network import Network
from mesm.model.network_config import Sizes
from mesm.model.registry import build_network
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.durations import moments_outside, with_known_durations
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.frames import FrameTable, check_durations
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.data.narrations import read_narrations_for
from mesm.pipeline.data.splits import training_splits
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import TextSource, has_words
from mesm.pipeline.run.console import say
from mesm.pipeline.run.networks import network_shapes
from mesm.pipeline.workspace import Workspace


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
    def longest_rows(self) -> int:
        """Rows of the longest video that is trained on."""
        return max(self.train.frames.lengths[annotation.video_id] for annotation in self.train.annotations)

    @property
    def queries_hash(self) -> str:
        """What the queries that are trained and validated on are known by."""
        return hash_of_queries(self.train.annotations, self.validation.annotations)


def hash_of_queries(train: Sequence[Annotation], validation: Sequence[Annotation]) -> str:
    """Return the SHA-256 of queries that are trained and validated on, with all that is known of them."""
    return hashlib.sha256(repr([*train, None, *validation]).encode()).hexdigest()


def load_training_data(workspace: Workspace, select_on: str = "") -> TrainingData:
    """Read annotations and features, prepare every video and query once."""
    config, annotations, features = workspace.config, workspace.require_annotations(), workspace.features
    train, validation, name = training_splits(config, annotations, select_on)
    folders = open_streams(config.features.video, features)
    warning = check_durations(folders, [*train, *validation]) if _folders_hold(folders, [*train, *validation]) else None
    if warning:
        say(f"warning: {warning}")
    videos = [annotation.video_id for annotation in [*train, *validation]]
    frames = FrameTable.load(folders, videos, config.dataset, workspace.device)
    train, validation = (with_known_durations(part, folders, config.dataset) for part in (train, validation))
    train, validation = (_inside(part, folders, config) for part in (train, validation))
    text = text_kind(config.features.text.encoder).from_folder(features, config)
    train, validation = (_with_words(part, text.source) for part in (train, validation))
    vocabulary = text.source.make_vocabulary([a.query for a in train], annotations)
    fingerprints = {folder.name: folder.fingerprint for folder in folders}
    told = read_narrations_for(config, features, text.source, [*train, *validation])
    if told is not None:
        fingerprints[NARRATIONS] = told.fingerprint
    return TrainingData(
        train=MomentData(train, frames, text.source, vocabulary, config.dataset, config.train.seed, narrations=told),
        validation=MomentData(validation, frames, text.source, vocabulary, config.dataset, narrations=told),
        text=text.source,
        vocabulary=vocabulary,
        fingerprints={**fingerprints, config.features.text.encoder: text.fingerprint},
        validation_name=name,
    )


def _inside(annotations: Sequence[Annotation], folders: Sequence[FeatureFolder], config: Config) -> list[Annotation]:
    """Leave out what lies outside of the videos, with a warning; PipelineError when nothing is left."""
    kept, outside = moments_outside(annotations, folders, config.dataset)
    if outside:
        say(f"warning: moments that begin when their video has ended are left out: {outside}")
    if not kept:
        raise PipelineError(f"no query has a moment inside its video: {outside}")
    return kept


def _with_words(annotations: Sequence[Annotation], text: TextSource) -> list[Annotation]:
    """Leave out queries of which no word is left, with a warning; PipelineError when that is all of them."""
    kept = [annotation for annotation in annotations if has_words(text, annotation.query)]
    if len(kept) < len(annotations):
        first = next(annotation for annotation in annotations if not has_words(text, annotation.query))
        say(
            f"warning: {len(annotations) - len(kept)} queries without any word are left out, such as "
            f"{first.query_id}: {shorten(first.query)}"
        )
    if not kept:
        raise PipelineError("no query has a word; expected sentences")
    return kept


def _folders_hold(folders: Sequence[FeatureFolder], annotations: Sequence[Annotation]) -> bool:
    return all(annotation.video_id in folder for folder in folders for annotation in annotations)


def build_for(config: Config, data: TrainingData) -> Network:
    """Build the network with the sizes that the features give it, and let it measure them."""
    torch.manual_seed(config.train.seed)
    frames = data.train.frames
    sizes = Sizes(frames.dim, data.text.dim, data.vocabulary.classes)
    network_shapes(config.model, sizes)
    network = build_network(config.model, sizes)
    videos = dict.fromkeys(annotation.video_id for annotation in data.train.annotations)
    network.fit((frames.take([video])[0] for video in videos), data.train.words_of_all())
    return network
