"""Word vectors: a table of words and their vectors, with the words' frequencies where they are known.

Stored as one safetensors file whose metadata holds the words as JSON. Read from that, or from an npz (no
pickle) with `words` (N,), `vectors` (N, dim) and, if present, `counter_words` and `counter_counts`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.publishing import replace_file

METADATA_KEY = "mesm-words"
UNKNOWN = -1
PADDING_ROW = 0


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
                content = json.loads((file.metadata() or {})[METADATA_KEY])
                return cls(tuple(content["words"]), file.get_tensor("vectors"), content["counts"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise FeatureError(f"{path} is no table of word vectors ({error}); import it again") from error

    @classmethod
    def from_npz(cls, path: Path) -> WordVectors:
        """Read `words`, `vectors` and, if present, `counter_words` and `counter_counts`; or FeatureError."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                words = tuple(str(word) for word in arrays["words"])
                vectors = np.asarray(arrays["vectors"], np.float32)
                counts: dict[str, int] = {}
                if "counter_words" in arrays:
                    pairs = zip(arrays["counter_words"], arrays["counter_counts"], strict=True)
                    counts = {str(word): int(count) for word, count in pairs}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FeatureError(
                f"{path} cannot be read as word vectors ({error}); expected an npz with words and vectors"
            ) from error
        return cls(words, vectors, counts)
