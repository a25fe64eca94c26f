"""A network from a checkpoint, and a split as it reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from mesm.datasets.annotations.records import Annotation, finite_number, shorten
from mesm.datasets.narration import NARRATIONS
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.extractors.weights.sources import WeightSources
from mesm.model.network import Network
from mesm.model.network_config import Asked, Sizes
from mesm.model.registry import NETWORKS, build_network, find_network, networks_that_learn
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import config_from_plain
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.durations import moments_outside, with_known_durations
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.frames import FrameTable
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.data.narrations import read_narrations_for
from mesm.pipeline.data.sentences import read_sentences
from mesm.pipeline.data.text_kinds import TextOfRun, text_kind
from mesm.pipeline.run.checkpoint import Checkpoint, load_checkpoint, refuse_other_features, require_parts
from mesm.pipeline.run.console import say
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.networks import network_shapes

SHOWN = 5
LARGEST_SIZE = 10**7
"""No width of features, and no vocabulary, is larger."""


@dataclass(frozen=True)
class TrainedModel:
    """A network from a checkpoint, ready to answer, and what it was trained with."""

    network: Network
    config: Config
    checkpoint: Checkpoint
    path: Path
    device: torch.device
    """Where it answers."""
    sources: WeightSources = field(default_factory=WeightSources)
    """Of weights, should the queries have to be encoded in other forms than they were."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of its training."""
        return Vocabulary.from_json(self.checkpoint.meta["vocabulary"])

    @property
    def longest_rows(self) -> int:
        """Rows of the longest video of its training; where that is not known, the most that it is given."""
        most = self.config.dataset.max_rows
        return min(self.checkpoint.meta.get("longest_rows", most), most)

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def is_imported(self) -> bool:
        """Whether the network is a released one: what features it was trained on is not known then."""
        return "imported" in self.checkpoint.meta

    @property
    def text(self) -> TextOfRun:
        """What it reads queries by."""
        meta = self.checkpoint.meta
        return TextOfRun(self.folder, meta["text"], meta["fingerprints"], self.is_imported)


def load_trained(path: Path, device: torch.device) -> TrainedModel:
    """Load a run directory's best checkpoint, or a checkpoint file.

    Raises PipelineError that says what of it does not fit, before the network is built.
    """
    checkpoint = load_checkpoint(path)
    require_parts(checkpoint, path)
    meta = checkpoint.meta
    config = config_from_plain(meta["config"], str(path))
    sizes, state = _sizes(meta["sizes"], path), checkpoint.part("model")
    _refuse_other_weights(checkpoint, config, network_shapes(config.model, sizes, answering=True), path)
    _refuse_other_texts(meta["text"], sizes, path)
    network = build_network(config.model, sizes)
    network.load_answering_state(state)
    trained = TrainedModel(network.to(device).eval(), config, checkpoint, path, device)
    if trained.vocabulary.classes != sizes.word_classes and sizes.word_classes:
        raise PipelineError(
            f"{path}: its vocabulary has {trained.vocabulary.classes} classes, its network {sizes.word_classes}"
        )
    return trained


def _sizes(stored: Mapping[str, Any], path: Path) -> Sizes:
    wanted = [field.name for field in fields(Sizes)]
    values = [stored.get(name) for name in wanted]
    if set(stored) != set(wanted) or not all(type(value) is int and 0 <= value <= LARGEST_SIZE for value in values):
        raise PipelineError(f"{path}: expected its sizes to be {', '.join(wanted)}, found {shorten(stored)}")
    return Sizes(**stored)


def _refuse_other_weights(
    checkpoint: Checkpoint, config: Config, expected: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Raise PipelineError unless a checkpoint holds finite weights of exactly these shapes."""
    state = checkpoint.part("model")
    found = {name: tuple(value.shape) for name, value in state.items()}
    if set(found) != set(expected):
        raise PipelineError(f"{path}: {_other_network(checkpoint, config)}")
    wrong = [
        f"{name} {list(found[name])}, expected {list(expected[name])}"
        for name in found
        if found[name] != expected[name]
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise PipelineError(f"{path}: weights are not as its configuration says: {'; '.join(wrong[:SHOWN])}{more}")
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise PipelineError(
            f"{path}: {len(broken)} of its weights are not finite ({', '.join(broken[:SHOWN])}), so it has no answers; "
            "train again with a smaller train.lr, or get the checkpoint again"
        )


def _refuse_other_texts(stored: Mapping[str, Any], sizes: Sizes, path: Path) -> None:
    """Raise PipelineError when the stored vector of unknown words is not one of the network's width."""
    vector = stored.get("unknown_vector")
    if vector is None:
        return
    numbers = isinstance(vector, list) and all(finite_number(x) is not None for x in vector)
    if not numbers or len(vector) != sizes.text_dim:
        raise PipelineError(
            f"{path}: expected its vector of unknown words to be {sizes.text_dim} numbers, found {shorten(vector)}"
        )


def load_evaluation_data(trained: TrainedModel, annotations: Sequence[Annotation], features: Path) -> MomentData:
    """Prepare a split for a trained network; PipelineError when the features are not those of its training."""
    config = trained.config
    folders = open_streams(config.features.video, features)
    sentences = None
    if config.model.sentences() is not Asked.NOT:
        asked = [annotation.query for annotation in annotations]
        sentences = read_sentences(config, folders, features, asked, trained.device, trained.sources)
    found = {folder.name: folder.fingerprint for folder in folders}
    text = text_kind(config.features.text.encoder).from_run(trained.text, features, config)
    found[text.encoder] = text.fingerprint
    told = read_narrations_for(config, features, text.source, annotations)
    if told is not None:
        found[NARRATIONS] = told.fingerprint
    refuse_other_features(trained.checkpoint.meta["fingerprints"], found, trained.path)
    if trained.is_imported:
        say(f"warning: the released checkpoint does not say which features it was trained on; {features} may be others")
    frames = FrameTable.load(folders, [a.video_id for a in annotations], config.dataset, trained.device)
    if trained.checkpoint.tensors:
        _refuse_other_sizes(trained, frames.dim, text.source.dim)
    annotations = with_known_durations(annotations, folders, config.dataset)
    if outside := moments_outside(annotations, folders, config.dataset)[1]:
        say(f"warning: moments begin when their video has ended, so no answer can find them: {outside}")
    read = {"sentences": sentences, "narrations": told}
    return MomentData(annotations, frames, text.source, trained.vocabulary, config.dataset, **read)  # type: ignore[arg-type]


def without_training(
    config: Config, folder: Path, device: torch.device, sources: WeightSources | None = None
) -> TrainedModel:
    """Build a network that has nothing to learn; what it answers is written to `folder`.

    sources: of weights, should the queries have to be encoded. Raises PipelineError for a network that has to be
    trained.
    """
    name = config.model.name
    if find_network(name).learns:
        untrained = ", ".join(other for other, entry in NETWORKS.items() if not entry.learns)
        raise PipelineError(f"the network {name} has to be trained; give its run directory; without one: {untrained}")
    # Its column in tables: the setting alone would be that of any network.
    config = replace(config, name=f"{config.name}, {name}")
    meta = {"vocabulary": Vocabulary((), 1).to_json(), "text": {}, "fingerprints": {}}
    network = build_network(config.model, Sizes(0, 0, 0)).eval()
    run = RunDirectory(folder)
    run.create()
    run.write_text("config.yaml", config.to_yaml())
    return TrainedModel(network, config, Checkpoint({}, meta), folder, device, sources or WeightSources())


def _refuse_other_sizes(trained: TrainedModel, video_dim: int, text_dim: int) -> None:
    """Raise PipelineError when the network cannot read features of these widths."""
    sizes = trained.network.sizes
    if (video_dim, text_dim) != (sizes.video_dim, sizes.text_dim):
        raise PipelineError(
            f"{trained.path} reads frames of {sizes.video_dim} numbers (2 of them temporal) and words of "
            f"{sizes.text_dim}, the features have {video_dim} and {text_dim}; give the features of its setting"
        )


def _other_network(checkpoint: Checkpoint, config: Config) -> str:
    """Say what a checkpoint's weights are of when they are not of the network that its configuration names."""
    found = set(checkpoint.part("model"))
    with torch.device("meta"):
        names = {
            entry.name: set(entry.network_class()(entry.config_class()(), Sizes(8, 8, 8)).answering_state())
            for entry in networks_that_learn().values()
        }
    near = min(names, key=lambda name: len(names[name] ^ found))
    missing, more = len(names[config.model.name] - found), len(found - names[config.model.name])
    if near == config.model.name:
        return f"its weights are of {near} with other options than its configuration says"
    return (
        f"its weights are nearest to those of the network {near}, its configuration is of {config.model.name} "
        f"({missing} weights missing, {more} too many); train it again, or import the released checkpoint again"
    )
