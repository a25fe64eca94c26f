"""A network from a checkpoint, and a split as it reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mesm.datasets.annotations.registry import Annotation
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.datasets.text.word_vectors import WordVectors
from mesm.model import Mesm
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import config_from_plain
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.folders import find_features, open_streams
from mesm.pipeline.data.frames import FrameTable
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.data.texts import WORD_TABLE_FILE, StoredText, TextSource, VectorText, table_fingerprint
from mesm.pipeline.run.checkpoint import Checkpoint, load_checkpoint
from mesm.pipeline.run.console import say


@dataclass(frozen=True)
class TrainedModel:
    """A network from a checkpoint, ready to answer, and what it was trained with."""

    model: Mesm
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
    def is_imported(self) -> bool:
        """Whether the network is a released one: what features it was trained on is not known then."""
        return "imported" in self.checkpoint.meta

    def word_table(self, features: Path | None = None) -> WordVectors:
        """The word vectors that were kept with the run; a released network's stand in the folder of features."""
        kept = self.folder / WORD_TABLE_FILE
        if self.is_imported and features is not None and not kept.exists():
            kept = features / WORD_TABLE_FILE
        if self.is_imported and not kept.exists():
            raise PipelineError(
                f"{self.folder} is an imported network and has no word vectors: import them by `mesm-pipeline "
                f"import-features glove.pkl --name glove`, and give that folder by --features, or copy its "
                f"{WORD_TABLE_FILE} into {self.folder}"
            )
        return WordVectors.load(kept)


def load_trained(path: Path, device: torch.device) -> TrainedModel:
    """Load a run directory's best checkpoint, or a checkpoint file."""
    checkpoint = load_checkpoint(path)
    meta = checkpoint.meta
    config = config_from_plain(meta["config"], str(path))
    model = Mesm(replace(config.model, **meta["sizes"]))
    model.load_state_dict(checkpoint.part("model"))
    return TrainedModel(model.to(device).eval(), config, checkpoint, path)


def load_evaluation_data(
    trained: TrainedModel, annotations: Sequence[Annotation], features: Path, device: torch.device
) -> MomentData:
    """Prepare a split for a trained network; PipelineError when the features are not those of its training."""
    config = trained.config
    folders = open_streams(config.features.video, features)
    found = {folder.name: folder.fingerprint for folder in folders}
    text: TextSource
    if config.features.text.encoder == "glove":
        table = trained.word_table(features)
        text = VectorText(table, config.features.text, config.dataset.max_words, trained.checkpoint.meta["text"])
        found["glove"] = table_fingerprint(table)
    else:
        folder = find_features(features, config.features.text.encoder, config.features.text.fingerprint)
        text = StoredText(folder, config.features.text, config.dataset.max_words)
        found[folder.name] = folder.fingerprint
    refuse_other_features(trained.checkpoint.meta["fingerprints"], found, trained.path)
    if trained.is_imported:
        say(f"warning: the released checkpoint does not say which features it was trained on; {features} may be others")
    frames = FrameTable.load(folders, [a.video_id for a in annotations], config.dataset, device)
    _refuse_other_sizes(trained, frames.dim, text.dim)
    return MomentData(annotations, frames, text, trained.vocabulary, config.dataset)


def _refuse_other_sizes(trained: TrainedModel, video_dim: int, text_dim: int) -> None:
    """Raise PipelineError when the network cannot read features of these widths."""
    network = trained.model.config
    if (video_dim, text_dim) != (network.video_dim, network.text_dim):
        raise PipelineError(
            f"{trained.path} reads frames of {network.video_dim} numbers (2 of them temporal) and words of "
            f"{network.text_dim}, the features have {video_dim} and {text_dim}; give the features of its setting"
        )


def refuse_other_features(expected: Mapping[str, str], found: Mapping[str, str], path: Path) -> None:
    """Raise PipelineError unless the features have the fingerprints that the checkpoint was trained with."""
    wrong = [
        f"{name}: trained with {fingerprint[:12]}, found {found.get(name, 'none')[:12]}"
        for name, fingerprint in expected.items()
        if found.get(name) != fingerprint
    ]
    if wrong:
        raise PipelineError(
            f"{path} was trained on other features ({'; '.join(wrong)}); extract with the configuration that it was "
            "trained with, or import the same files"
        )
