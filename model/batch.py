"""The tensors of one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from mesm.model.layouts import Layout


@dataclass
class WordMask:
    """Which words of each query are hidden for the rebuilding of words, and what they were."""

    masked: Tensor
    """(N, W) bool, words replaced by the learnable masked word."""
    unknown: Tensor
    """(N, W) bool, words outside the vocabulary: replaced by the learnable unknown word."""
    labels: Tensor
    """(N, W) int64, class of each word."""


@dataclass
class Targets:
    """What is known of each query's moment."""

    windows: Tensor
    """(N, M, 2) start and end as fractions of the duration, padded with (0, 1)."""
    window_counts: tuple[int, ...]
    """Number of windows of each query, on the host."""
    clip_mask: Tensor
    """(N, L) bool, the frames inside the moment; at least one a query."""
    saliency: Tensor
    """(N, L) float32, label of each frame: 0 or 1, or 0 to 12 (QVHighlights)."""
    positive: Tensor | None
    """(N, 2) int64, frames that should score higher than those of `negative`; None without the triplet term."""
    negative: Tensor | None
    """(N, 2) int64."""


@dataclass
class Batch:
    """N queries about V videos. A video that several queries share is present once."""

    video: Tensor
    """(T, D_video) frame features, the valid frames of the V videos one after the other."""
    frames: Layout
    """The valid frames of the V videos."""
    video_of_query: tuple[int, ...]
    """Which video each query is about."""
    group_of_query: tuple[int, ...]
    """Queries of the same group may share moments: the positives of the contrast."""
    words: Tensor
    """(N, W, D_text) word features, each L2-normalised, zeros at padding."""
    words_mask: Tensor
    """(N, W) bool, True at valid words."""
    negative_query: Tensor | None = None
    """(N,) int64, for each query another one of the batch that does not describe its video; None without negatives."""
    word_mask: WordMask | None = None
    targets: Targets | None = None
    word_lengths: tuple[int, ...] = ()
    """Valid words of each query, on the host; empty: read from `words_mask`, which waits for the device."""
    answered: int = 0
    """How many of the queries are answered, the leading ones; the others only lend their words as negatives, and
    `negative_query`, `word_mask` and `targets` do not have them. 0: all."""

    @property
    def count(self) -> int:
        """Number of queries that are answered."""
        return self.answered or len(self.words)

    def query_mask(self) -> Tensor:
        """(N, L) bool: the valid frames of each query that is answered."""
        return self.frames.mask[rows_of(self.video_of_query[: self.count], self.words.device)]

    def words_layout(self) -> Layout:
        """Lay out the valid words of the queries that are answered."""
        return self.all_words_layout().leading(self.count)

    def all_words_layout(self) -> Layout:
        """Lay out the valid words of all queries, those that only lend them included."""
        lengths = self.word_lengths or tuple(self.words_mask.sum(1).tolist())
        return Layout(lengths, self.words.device, self.words.shape[1])

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor to a device."""
        moved: dict[str, Any] = {f.name: _to(getattr(self, f.name), device) for f in fields(self)}
        moved["frames"] = Layout(self.frames.lengths, device, self.frames.width)
        return Batch(**moved)


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, WordMask | Targets):
        parts: dict[str, Any] = {f.name: _to(getattr(value, f.name), device) for f in fields(value)}
        return type(value)(**parts)
    return value


def rows_of(indices: Sequence[int], device: torch.device | str) -> Tensor:
    """(N,) int64 tensor of host indices, on the device."""
    return torch.tensor(indices, dtype=torch.int64).to(device, non_blocking=True)
