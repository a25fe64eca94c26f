"""Queries as the network reads them: word vectors, and what the rebuilding of masked words needs of each word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.fingerprints import text_key
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.vocabulary import (
    CLIP_END_ID,
    CLIP_START_ID,
    Vocabulary,
    count_tokens,
    read_clip_counts,
    read_word_counts,
    tokens_as_they_come,
)
from mesm.datasets.text.word_vectors import PADDING_ROW, UNKNOWN, WordVectors
from mesm.datasets.text.words import piece_weights, split_words, word_weights
from mesm.pipeline.config.schema import TextFeatureConfig

WORD_EPS = 1e-5


UNKNOWN_VECTOR_SEED = 2019
"""The published TACoS setting draws its vector of unknown words first after seeding with this."""


CLIP_PIECES = frozenset({"clip-text"})
"""Text encoders whose tokens are the pieces of CLIP's vocabulary."""
WORD_TABLE_FILE = "glove.safetensors"


@dataclass(frozen=True)
class QueryWords:
    """The words of one query."""

    vectors: np.ndarray
    """(W, D) float32, each L2-normalised unless the configuration has them as they are."""
    tokens: tuple[int | str, ...]
    """What the vocabulary knows the words by."""
    weights: np.ndarray
    """(W,) float32: how readily each word is masked; 0: never."""
    cut: bool = False
    """The query has more words, which were left out."""


class TextSource(Protocol):
    """Where the vectors of a query's words come from."""

    dim: int

    def words(self, query: str) -> QueryWords:
        """Return at most `max_words` words of a query."""

    def make_vocabulary(self, queries: Sequence[str], annotations: Path | None) -> Vocabulary:
        """Return the vocabulary: the dataset's published counts when they are there, else counted on `queries`."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores of the source, as JSON types."""


def normalise_words(vectors: np.ndarray, normalise: bool = True) -> np.ndarray:
    """L2-normalise (W, D) word vectors, as the published code does (epsilon 1e-5), if they are to be."""
    vectors = vectors.astype(np.float32)
    return vectors if not normalise else vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), WORD_EPS)


class EncodedText:
    """Token states of a text encoder, read from a feature folder or encoded when asked."""

    def __init__(self, dim: int, config: TextFeatureConfig, max_words: int) -> None:
        self.dim, self.config, self.max_words = dim, config, max_words

    def words_of_states(self, states: np.ndarray, token_ids: np.ndarray, cut: bool = False) -> QueryWords:
        """Keep the start token, the first words and the end token of longer texts; `cut`: more were there before."""
        if len(token_ids) > self.max_words:
            cut = True
            kept = [*range(self.max_words - 1), len(token_ids) - 1]
            states, token_ids = states[kept], token_ids[kept]
        ids = tuple(int(token) for token in token_ids)
        return QueryWords(normalise_words(states, self.config.normalise), ids, self._weights(ids), cut)

    def _weights(self, ids: tuple[int, ...]) -> np.ndarray:
        if self.config.encoder in CLIP_PIECES:
            pieces = [self._pieces[token] for token in ids]
            return piece_weights(pieces, self.config.word_weights).astype(np.float32)
        # Other encoders close their texts with a token of their own; those without CLIP's start have none to spare.
        weights = np.array([token not in (CLIP_START_ID, CLIP_END_ID) for token in ids], np.float32)
        weights[-1] = 0.0
        return weights

    @cached_property
    def _pieces(self) -> Mapping[int, str]:
        from mesm.extractors.encoders.clip_pieces import token_pieces

        return token_pieces()

    def make_vocabulary(self, queries: Sequence[str], annotations: Path | None) -> Vocabulary:
        """Return the published counts of CLIP's ids when the annotations have them, else count."""
        size = self.config.vocabulary_size
        published = find_counts(annotations, "CLIP_tokenized_count.txt")
        if published is not None and self.config.encoder in CLIP_PIECES:
            return read_clip_counts(published, size)
        tokens = {query: self.words(query).tokens for query in dict.fromkeys(queries)}
        return count_tokens((tokens[query] for query in queries), size, CLIP_START_ID, CLIP_END_ID)

    def words(self, query: str) -> QueryWords:
        """Return the words of a query."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return nothing: the encoder's specification stands with the features' fingerprints."""
        return {}


class StoredText(EncodedText):
    """Token states that were extracted before."""

    def __init__(self, folder: FeatureFolder, config: TextFeatureConfig, max_words: int) -> None:
        dim = folder.spec.get("dim")
        if not isinstance(dim, int):
            raise FeatureError(f"{folder.path} does not say how wide its states are (dim: {dim!r}); extract them again")
        super().__init__(dim, config, max_words)
        self.folder = folder

    def words(self, query: str) -> QueryWords:
        """Return the words of a query whose text was extracted; FeatureError if it was not."""
        key = text_key(query)
        if key not in self.folder:
            raise FeatureError(
                f"{self.folder.path} has no features of the query {query!r}; run extract again with these annotations"
            )
        arrays = self.folder.read(key)
        return self.words_of_states(np.asarray(arrays["tokens"]), np.asarray(arrays["token_ids"]))


class LiveText(EncodedText):
    """Token states that a text encoder computes when asked."""

    def __init__(self, encoder: Any, config: TextFeatureConfig, max_words: int) -> None:
        super().__init__(encoder.dim, config, max_words)
        self.encoder = encoder

    def words(self, query: str) -> QueryWords:
        """Encode a query."""
        features = self.encoder.encode([query])[0]
        return self.words_of_states(features.tokens, features.token_ids, features.cut)


def make_unknown_vector(dim: int) -> np.ndarray:
    """Draw the vector of unknown words, (dim,) float32, as the published TACoS setting does."""
    generator = torch.Generator().manual_seed(UNKNOWN_VECTOR_SEED)
    return torch.randn(dim, generator=generator).numpy()


class VectorText:
    """Word vectors of a table (GloVe)."""

    def __init__(
        self, table: WordVectors, config: TextFeatureConfig, max_words: int, state: Mapping[str, Any] | None = None
    ) -> None:
        """Read words by `table`; `state` is what `state()` of the source returned that a network was trained with."""
        self.table, self.config, self.max_words = table, config, max_words
        self.dim = table.dim
        self.unknown_vector = make_unknown_vector(self.dim)
        if state:
            self.unknown_vector = np.asarray(state["unknown_vector"], np.float32)

    def words(self, query: str) -> QueryWords:
        """Return the words of a query that have a vector, or all of them with the vector of unknown words.

        A query without any known word becomes one unknown word, so that it still has an answer.
        """
        words = split_words(query, self.config.words)
        if self.config.unknown_words == "drop":
            words = [word for word, known in zip(words, self._known(words), strict=True) if known]
        cut = len(words) > self.max_words
        words = words[: self.max_words] or [""]
        unknown = np.float32(0) if self.config.unknown_words == "zeros" else self.unknown_vector
        vectors = np.where(self._known(words)[:, None], self.table.lookup(words), unknown)
        weights = word_weights(words, self.config.word_weights).astype(np.float32)
        return QueryWords(normalise_words(vectors, self.config.normalise), tuple(words), weights, cut)

    def mean_vector(self, text: str) -> np.ndarray | None:
        """Return the mean of the vectors of all words of a text that have one, (D,) float64; None: there is none."""
        words = split_words(text, self.config.words)
        known = [word for word, has in zip(words, self._known(words), strict=True) if has]
        if not known:
            return None
        vectors = normalise_words(self.table.lookup(known), self.config.normalise)
        return np.asarray(vectors.astype(np.float64).mean(0))

    def count_known(self, texts: Iterable[str]) -> tuple[int, int]:
        """Return how many distinct words of some texts have a vector, and how many there are."""
        words = list({word: None for text in texts for word in split_words(text, self.config.words)})
        return int(self._known(words).sum()), len(words)

    def _known(self, words: Sequence[str]) -> np.ndarray:
        rows = self.table.rows(words)
        return (rows != UNKNOWN) & (rows != PADDING_ROW)

    def make_vocabulary(self, queries: Sequence[str], annotations: Path | None) -> Vocabulary:
        """Return the table's own counts, the published ones beside the annotations, or counts on `queries`."""
        size = self.config.vocabulary_size
        if self.config.vocabulary == "all":
            return tokens_as_they_come(split_words(query, self.config.words) for query in queries)
        if self.table.counts:
            return Vocabulary(tuple(list(self.table.counts)[:size]), size)
        published = find_counts(annotations, "GloVe_tokenized_count.txt")
        if published is not None:
            return read_word_counts(published, size)
        words = {query: split_words(query, self.config.words) for query in dict.fromkeys(queries)}
        return count_tokens((words[query] for query in queries), size)

    def state(self) -> dict[str, Any]:
        """Return the vector of unknown words."""
        return {"unknown_vector": [float(x) for x in self.unknown_vector]}


def has_words(source: TextSource, query: str) -> bool:
    """Say whether anything of a query is left as words, known or not: of `?!` nothing is."""
    return not isinstance(source, VectorText) or bool(split_words(query, source.config.words))


def find_counts(annotations: Path | None, name: str) -> Path | None:
    """Return the published file of token counts beside the annotations; None when it is not there."""
    if annotations is None:
        return None
    folder = annotations if annotations.is_dir() else annotations.parent
    return next((path for path in (folder / name, folder / "annotations" / name) if path.is_file()), None)


def table_fingerprint(table: WordVectors) -> str:
    """Hash of the words and vectors of a table."""
    import hashlib

    digest = hashlib.sha256("\n".join(table.words).encode())
    digest.update(np.ascontiguousarray(table.vectors).tobytes())
    return digest.hexdigest()


def texts_of(annotations: Sequence[Annotation]) -> list[str]:
    """Return the distinct queries, in order of first appearance."""
    return list(dict.fromkeys(annotation.query for annotation in annotations))
