"""The kinds of text features: token states in shards, and a table of word vectors; each opens them in three ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mesm.datasets.shards.fingerprints import fingerprint
from mesm.datasets.text.vocabulary import CLIP_END_ID, CLIP_START_ID, Vocabulary, read_clip_counts, read_word_counts
from mesm.datasets.text.word_vectors import WordVectors
from mesm.extractors.encoders.registry import create_text_encoder
from mesm.extractors.weights.sources import WeightSources
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.folders import find_features
from mesm.pipeline.data.texts import (
    WORD_TABLE_FILE,
    LiveText,
    StoredText,
    TextSource,
    VectorText,
    table_fingerprint,
)


@dataclass(frozen=True)
class OpenedText:
    """A source of word vectors, and what its features are known by."""

    source: TextSource
    encoder: str
    fingerprint: str


@dataclass(frozen=True)
class TextOfRun:
    """What a trained network has beside its weights to read queries by."""

    folder: Path
    """The run directory."""
    state: Mapping[str, Any]
    """What `TextSource.state` returned in its training."""
    fingerprints: Mapping[str, str]
    """Of its training features, by encoder."""
    imported: bool
    """It is a released network: nothing is known of its training features, and no table was kept with it."""


class TextKind(ABC):
    """One kind of text features."""

    is_table: bool
    """The vectors of all words stand in one file, instead of the states of each text in shards."""
    markers: tuple[int | None, int | None]
    """Token ids of the start and the end of a text, which a vocabulary has beside the words; None: there are none."""
    counts_file: str
    """The published file of token counts."""
    read_counts: Callable[[Path, int], Vocabulary]
    advice: str
    """How to get the features."""

    @abstractmethod
    def from_folder(self, root: Path, config: Config) -> OpenedText:
        """Open what stands below a folder of features; FeatureError."""

    @abstractmethod
    def from_run(self, run: TextOfRun, root: Path, config: Config) -> OpenedText:
        """Open what a trained network reads the stored features of `root` by; FeatureError, PipelineError."""

    @abstractmethod
    def live(
        self, run: TextOfRun, root: Path | None, config: Config, device: torch.device, sources: WeightSources
    ) -> OpenedText:
        """Make what a trained network reads any query by; WeightsError when an encoder's weights are not to be had."""


class TokenStates(TextKind):
    """States of a text encoder for each token, extracted into shards or computed when asked."""

    is_table = False
    markers = (CLIP_START_ID, CLIP_END_ID)
    counts_file = "CLIP_tokenized_count.txt"
    read_counts = staticmethod(read_clip_counts)
    advice = "encode the queries: mesm-pipeline extract --config CONFIG --annotations ANNOTATIONS, without --videos"

    def from_folder(self, root: Path, config: Config) -> OpenedText:
        """Open the shards of the configured encoder."""
        text = config.features.text
        folder = find_features(root, text.encoder, text.fingerprint, "features.text")
        return OpenedText(StoredText(folder, text, config.dataset.max_words), folder.name, folder.fingerprint)

    def from_run(self, run: TextOfRun, root: Path, config: Config) -> OpenedText:
        """Open the shards: nothing of them is kept with a run."""
        return self.from_folder(root, config)

    def live(
        self, run: TextOfRun, root: Path | None, config: Config, device: torch.device, sources: WeightSources
    ) -> OpenedText:
        """Build the encoder."""
        text = config.features.text
        encoder = create_text_encoder(
            text.encoder, weights=text.weights, device=device, options=text.options, sources=sources
        )
        return OpenedText(LiveText(encoder, text, config.dataset.max_words), encoder.name, fingerprint(encoder.spec))


class WordTable(TextKind):
    """A vector for each word (GloVe), in one file beside the features and beside each run."""

    is_table = True
    markers = (None, None)
    counts_file = "GloVe_tokenized_count.txt"
    read_counts = staticmethod(read_word_counts)
    advice = (
        f"extract makes {WORD_TABLE_FILE} from the weights glove-6b-300d, a text file; import-features from an npz "
        "with the arrays words and vectors, whose first row is zero"
    )

    def from_folder(self, root: Path, config: Config) -> OpenedText:
        """Read the table beside the features."""
        table = WordVectors.load(root / WORD_TABLE_FILE)
        source = VectorText(table, config.features.text, config.dataset.max_words)
        return OpenedText(source, config.features.text.encoder, table_fingerprint(table))

    def from_run(self, run: TextOfRun, root: Path, config: Config) -> OpenedText:
        """Read the table that was kept with the run, or, for a released network, the one beside the features."""
        table = self._table_of(run, root)
        source = VectorText(table, config.features.text, config.dataset.max_words, run.state)
        return OpenedText(source, config.features.text.encoder, table_fingerprint(table))

    def live(
        self, run: TextOfRun, root: Path | None, config: Config, device: torch.device, sources: WeightSources
    ) -> OpenedText:
        """Read the same table: it needs no encoder, and is the run's own."""
        encoder = config.features.text.encoder
        table = self._table_of(run, root)
        source = VectorText(table, config.features.text, config.dataset.max_words, run.state)
        return OpenedText(source, encoder, table_fingerprint(table))

    @staticmethod
    def _table_of(run: TextOfRun, root: Path | None) -> WordVectors:
        kept = run.folder / WORD_TABLE_FILE
        if run.imported and root is not None and not kept.exists():
            kept = root / WORD_TABLE_FILE
        if run.imported and not kept.exists():
            raise PipelineError(
                f"{run.folder} is an imported network and has no word vectors: import them by `mesm-pipeline "
                f"import-features VECTORS.npz --name glove` (an npz with the arrays words and vectors, whose first row "
                f"is zero), and give that folder by --features, or copy its {WORD_TABLE_FILE} into {run.folder}"
            )
        return WordVectors.load(kept)


TEXT_KINDS: Mapping[str, TextKind] = {"glove": WordTable()}
"""The encoders whose kind is not that of token states."""


def text_kind(encoder: str) -> TextKind:
    """Return the kind of an encoder's features."""
    return TEXT_KINDS.get(encoder, TokenStates())
