"""Word vectors inside a released checkpoint: they stand there without their words, which the annotations give back.

Source: EMB's code, `Raymond-sci/EMB` at a81e57a: the words of all splits that the table of word vectors knows, most
frequent first, of equally frequent ones the one that appears first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from mesm.datasets.text.word_vectors import PADDING_ROW, UNKNOWN, WordVectors
from mesm.datasets.text.words import split_words
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.splits import read_all_splits

VECTORS = "embedding_net.word_emb.glove_vec"
"""The published name of the vectors, (words, dim)."""


def words_inside(
    tensors: Mapping[str, Tensor], config: Config, annotations: Path | None, table: Path | None
) -> WordVectors:
    """Name the word vectors of a released checkpoint; PipelineError when they are not those of the annotations' words.

    table: of word vectors, such as the glove.safetensors that extraction or import wrote.
    """
    stored = tensors[VECTORS].numpy()
    if annotations is None or table is None:
        raise PipelineError(
            f"the checkpoint holds {len(stored)} word vectors without their words; give --annotations, from whose "
            "queries the words follow, and --word-vectors, the table that they were taken from"
        )
    known = WordVectors.load(table)
    words = vocabulary(config, annotations, known)
    expected = known.lookup(words)
    if expected.shape[1] != stored.shape[1]:
        raise PipelineError(f"{table} has vectors of {expected.shape[1]} numbers, the checkpoint of {stored.shape[1]}")
    common = min(len(words), len(stored))
    differ = np.flatnonzero((expected[:common] != stored[:common]).any(1))
    if len(differ) or len(words) != len(stored):
        first = int(differ[0]) if len(differ) else common
        word = repr(words[first]) if first < len(words) else "none"
        raise PipelineError(
            f"the checkpoint's word vectors are not those of the words of {annotations} by {table}: it has "
            f"{len(stored)}, they {len(words)}; the first that differs is number {first + 1}, {word}; give the "
            "annotations and the table of its training"
        )
    vectors = np.concatenate((np.zeros((1, stored.shape[1]), np.float32), stored))
    return WordVectors(("", *words), vectors)


def vocabulary(config: Config, annotations: Path, known: WordVectors) -> list[str]:
    """Return the words of all splits that have a vector, most frequent first."""
    counts: Counter[str] = Counter()
    for annotation in read_all_splits(config, annotations):
        counts.update(split_words(annotation.query, config.features.text.words)[: config.dataset.max_words])
    words = [word for word, _ in counts.most_common()]
    rows = known.rows(words)
    return [word for word, row in zip(words, rows, strict=True) if row not in (UNKNOWN, PADDING_ROW)]
