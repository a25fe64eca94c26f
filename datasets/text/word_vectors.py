"""Word vectors: a table of words and their vectors, with the words' frequencies where they are known.

Stored as one safetensors file whose metadata holds the words as JSON. Read from that, or from an npz (no
pickle) with `words` (N,), `vectors` (N, dim) and, if present, `counter_words` and `counter_counts`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mesm.datasets.array_files import BROKEN_ARRAY, npz_names, read_npz
from mesm.datasets.errors import FeatureError
from mesm.datasets.plain_text import parse_json
from mesm.datasets.shards.publishing import replace_file

METADATA_KEY = "mesm-words"
UNKNOWN = -1
PADDING_ROW = 0
LARGEST_TABLE = 2 * 1024**3
"""Bytes of the largest array of a table; GloVe's 400,000 vectors of 300 numbers are a quarter of that."""


@dataclass(frozen=True)
class WordVectors:
    """Words and their vectors; row 0 is the padding word, a vector of zeros."""

    words: tuple[str, ...]
    vectors: np.ndarray
    """(words, dim) float32."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often each word occurred in the corpus, most frequent first; empty when not known."""

    def __post_init__(self) -> None:
        """Check shapes and that no word occurs twice; raises FeatureError."""
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.words):
            raise FeatureError(
                f"{len(self.words)} words have vectors of shape {self.vectors.shape}; expected (words, dim)"
            )
        if self.vectors.dtype != np.float32 or not np.isfinite(self.vectors).all():
            raise FeatureError(f"word vectors are {self.vectors.dtype}; expected finite float32 numbers")
        if len(self.words) == 0 or self.vectors[PADDING_ROW].any():
            raise FeatureError("row 0 of the word vectors is not zero; expected the padding word there")
        rows = {word: row for row, word in enumerate(self.words)}
        if len(rows) != len(self.words):
            raise FeatureError(f"{len(self.words) - len(rows)} words occur twice; expected each once")
        object.__setattr__(self, "_rows", rows)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])

    def rows(self, words: Sequence[str]) -> np.ndarray:
        """Return the row of each word, (n,) int64, UNKNOWN (-1) for a word without a vector."""
        known: dict[str, int] = self.__dict__["_rows"]
        return np.fromiter((known.get(word, UNKNOWN) for word in words), np.int64, len(words))

    def lookup(self, words: Sequence[str]) -> np.ndarray:
        """Return the vectors of words, (n, dim) float32; a word without a vector gets zeros."""
        rows = self.rows(words)
        return self.vectors[np.where(rows == UNKNOWN, PADDING_ROW, rows)]

    def save(self, path: Path) -> None:
        """Write the table to one safetensors file, replacing an earlier one at once."""
        text = json.dumps({"words": self.words, "counts": dict(self.counts)}, separators=(",", ":"))
        content = save({"vectors": np.ascontiguousarray(self.vectors)}, metadata={METADATA_KEY: text})
        replace_file(path, lambda temporary: temporary.write_bytes(content))

    @classmethod
    def load(cls, path: Path) -> WordVectors:
        """Read what `save` wrote; FeatureError when the file is missing or another one."""
        try:
            with safe_open(path, framework="numpy") as file:
                content = parse_json((file.metadata() or {})[METADATA_KEY])
                words, counts = content["words"], content["counts"]
                if not all(isinstance(word, str) for word in words) or not isinstance(counts, dict):
                    raise ValueError("its words are no texts")
                return cls(tuple(words), file.get_tensor("vectors"), counts)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise FeatureError(
                f"{path} is no table of word vectors, or is damaged ({error}); make it again: extract makes it, or "
                "import-features of an npz of word vectors"
            ) from error

    @classmethod
    def from_npz(cls, path: Path) -> WordVectors:
        """Read `words`, `vectors` and, if present, `counter_words` and `counter_counts`; or FeatureError."""
        try:
            words = _texts(read_npz(path, "words", LARGEST_TABLE))
            vectors = read_npz(path, "vectors", LARGEST_TABLE)
            if vectors.dtype.kind not in "fiu":
                raise ValueError(f"vectors are {vectors.dtype}")
            with np.errstate(over="ignore"):
                vectors = vectors.astype(np.float32, copy=False)
            counts: dict[str, int] = {}
            if "counter_words" in npz_names(path):
                numbers = read_npz(path, "counter_counts", LARGEST_TABLE).tolist()
                pairs = zip(_texts(read_npz(path, "counter_words", LARGEST_TABLE)), numbers, strict=True)
                counts = {word: int(count) for word, count in pairs}
        except BROKEN_ARRAY as error:
            raise FeatureError(
                f"{path} cannot be read as word vectors ({error}); expected an npz with words and vectors"
            ) from error
        return cls(words, vectors, counts)


def _texts(array: np.ndarray) -> tuple[str, ...]:
    """Return the words of an array (n,) of texts, or ValueError."""
    if array.ndim != 1 or array.dtype.kind != "U":
        raise ValueError(f"words are {array.dtype} {array.shape}, expected texts (n,)")
    return tuple(array.tolist())
