"""A network from a checkpoint, and a split as it reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.model.network import Network
from mesm.model.network_config import Sizes
from mesm.model.registry import NETWORKS, build_network
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import config_from_plain
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.frames import FrameTable
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.data.text_kinds import TextOfRun, text_kind
from mesm.pipeline.run.checkpoint import Checkpoint, load_checkpoint, refuse_other_features
from mesm.pipeline.run.console import say


@dataclass(frozen=True)
class TrainedModel:
    """A network from a checkpoint, ready to answer, and what it was trained with."""

    network: Network
    config: Config
    checkpoint: Checkpoint
    path: Path

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of its training."""
        return Vocabulary.from_json(self.checkpoint.meta["vocabulary"])

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def device(self) -> torch.device:
        """Where it answers."""
        return next(self.network.parameters()).device

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
    """Load a run directory's best checkpoint, or a checkpoint file."""
    checkpoint = load_checkpoint(path)
    meta = checkpoint.meta
    config = config_from_plain(meta["config"], str(path))
    network = build_network(config.model, Sizes(**meta["sizes"]))
    try:
        network.load_state_dict(checkpoint.part("model"))
    except RuntimeError as error:
        raise PipelineError(f"{path}: {_other_network(checkpoint, config)}") from error
    return TrainedModel(network.to(device).eval(), config, checkpoint, path)


def load_evaluation_data(trained: TrainedModel, annotations: Sequence[Annotation], features: Path) -> MomentData:
    """Prepare a split for a trained network; PipelineError when the features are not those of its training."""
    config = trained.config
    folders = open_streams(config.features.video, features)
    found = {folder.name: folder.fingerprint for folder in folders}
    text = text_kind(config.features.text.encoder).from_run(trained.text, features, config)
    found[text.encoder] = text.fingerprint
    refuse_other_features(trained.checkpoint.meta["fingerprints"], found, trained.path)
    if trained.is_imported:
        say(f"warning: the released checkpoint does not say which features it was trained on; {features} may be others")
    frames = FrameTable.load(folders, [a.video_id for a in annotations], config.dataset, trained.device)
    _refuse_other_sizes(trained, frames.dim, text.source.dim)
    return MomentData(annotations, frames, text.source, trained.vocabulary, config.dataset)


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
            entry.name: set(entry.network_class()(entry.config_class()(), Sizes(8, 8, 8)).state_dict())
            for entry in NETWORKS.values()
        }
    near = min(names, key=lambda name: len(names[name] ^ found))
    missing, more = len(names[config.model.name] - found), len(found - names[config.model.name])
    if near == config.model.name:
        return f"its weights are of {near} with other options than its configuration says"
    return (
        f"its weights are nearest to those of the network {near}, its configuration is of {config.model.name} "
        f"({missing} weights missing, {more} too many); train it again, or import the released checkpoint again"
    )
