"""The vocabulary of masked language modelling: the label that stands for each token (MESM section 1.3).

Only the most frequent tokens are labels; all others share the label `unknown`. A CLIP vocabulary has two more
labels, for the start and the end of the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mesm.datasets.annotations.records import Problems, read_text, shorten
from mesm.datasets.errors import DatasetError

Token = int | str

PADDING = "PAD"
"""Not a word, as words are in lower case."""
CLIP_START_ID = 49406
CLIP_END_ID = 49407


@dataclass(frozen=True)
class Vocabulary:
    """Ranked tokens and their labels: the rank, then `unknown` = size, then start and end if any."""

    tokens: tuple[Token, ...]
    """The most frequent tokens, most frequent first: words, or ids of a text encoder. At most `size`."""
    size: int
    """Number of labels kept for tokens; fewer tokens leave labels unused, so the layout does not vary."""
    start: Token | None = None
    """The token that opens every text, when the encoder has one."""
    end: Token | None = None

    def __post_init__(self) -> None:
        if len(self.tokens) > self.size or self.size < 1:
            raise DatasetError(f"a vocabulary of size {self.size} cannot hold {len(self.tokens)} tokens")
        if len(set(self.tokens)) != len(self.tokens):
            repeated = [token for token, count in Counter(self.tokens).items() if count > 1]
            raise DatasetError(f"a vocabulary lists each token once; repeated: {shorten(repeated)}")
        if (self.start is None) != (self.end is None):
            raise DatasetError("a vocabulary has both a start and an end token, or neither")

    @property
    def unknown(self) -> int:
        """Label of every token that is not listed."""
        return self.size

    @property
    def classes(self) -> int:
        """Number of labels."""
        return self.size + (1 if self.start is None else 3)

    def label(self, token: Token) -> int:
        """Return the label of one token."""
        return self._labels.get(token, self.unknown)

    def labels(self, tokens: Any, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of many tokens and which of them are unknown.

        `tokens` is an array or nested sequence of ids or words, of any shape; both results have its shape,
        int64 and bool. Where `mask` is False (padding), the label is 0 and the token is not unknown.
        """
        array = np.asarray(tokens)
        distinct, position = np.unique(array, return_inverse=True)
        table = np.array([self.label(token) for token in distinct.tolist()], dtype=np.int64)
        labels = table[position].reshape(array.shape) if array.size else np.zeros(array.shape, dtype=np.int64)
        if mask is not None:
            labels = np.where(mask, labels, 0)
            return labels, (labels == self.unknown) & mask
        return labels, labels == self.unknown

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint stores, made of JSON types."""
        return {"tokens": list(self.tokens), "size": self.size, "start": self.start, "end": self.end}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Vocabulary:
        """Restore a vocabulary from `to_json`; raises DatasetError when a part is missing or ill-typed."""
        tokens, size = stored.get("tokens"), stored.get("size")
        start, end = stored.get("start"), stored.get("end")
        sound = isinstance(tokens, list) and all(isinstance(token, (int, str)) for token in tokens)
        if not sound or not isinstance(size, int):
            raise DatasetError(f"expected a vocabulary's tokens and size, found {shorten(dict(stored))}")
        return cls(tuple(tokens or ()), size, start, end)

    @cached_property
    def _labels(self) -> dict[Token, int]:
        labels = {token: rank for rank, token in enumerate(self.tokens)}
        if self.start is not None and self.end is not None:
            labels.update({self.start: self.size + 1, self.end: self.size + 2})
        return labels


def count_tokens(
    texts: Iterable[Iterable[Token]], size: int, start: Token | None = None, end: Token | None = None
) -> Vocabulary:
    """Make a vocabulary of the `size` most frequent tokens of a training split, ties by first appearance.

    `texts` holds each query's words or token ids. `start` and `end` (for CLIP: `CLIP_START_ID`,
    `CLIP_END_ID`) are not counted.
    """
    counts: Counter[Token] = Counter()
    for tokens in texts:
        counts.update(tokens)
    for special in (start, end):
        if special is not None:
            counts.pop(special, None)
    return Vocabulary(tuple(token for token, _ in counts.most_common(size)), size, start, end)


def tokens_as_they_come(texts: Iterable[Iterable[str]]) -> Vocabulary:
    """Make a vocabulary of all words of a training split in the order of their first appearance (MSAT).

    Class 0 is that of padding, which no word has.
    """
    words = dict.fromkeys(word for text in texts for word in text)
    return Vocabulary((PADDING, *words), len(words) + 1)


def read_clip_counts(path: Path, size: int) -> Vocabulary:
    """Read the published `CLIP_tokenized_count.txt` (lines `ID COUNT`, most frequent first)."""
    ids = [int(fields[0]) for fields in _read_columns(path, ("id", "count"))]
    return Vocabulary(tuple(ids[:size]), size, CLIP_START_ID, CLIP_END_ID)


def read_word_counts(path: Path, size: int) -> Vocabulary:
    """Read the published `GloVe_tokenized_count.txt` (lines `WORD ID COUNT`, most frequent first)."""
    words = [fields[0] for fields in _read_columns(path, ("word", "id", "count"))]
    return Vocabulary(tuple(words[:size]), size)


def _read_columns(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """Read lines of white-space separated columns; all but `word` hold integers."""
    problems = Problems(path)
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        sound = len(fields) == len(columns) and all(
            name == "word" or field.isdecimal() for name, field in zip(columns, fields, strict=True)
        )
        if sound:
            rows.append(fields)
        else:
            problems.add(f"line {number}", "", " ".join(columns), line)
    problems.raise_any()
    return rows
