"""The tensors of one step."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mesm.model.layouts import Layout, to_device


@dataclass(frozen=True)
class Words:
    """The words of N queries."""

    vectors: Tensor
    """(N, W, D_text), each L2-normalised, zeros at padding."""
    mask: Tensor
    """(N, W) bool, True at valid words."""
    lengths: tuple[int, ...] = ()
    """Valid words of each query, on the host; empty: read from `mask`, which waits for the device."""


@dataclass(frozen=True)
class Sentences:
    """The N queries as whole sentences, in the space of the frames: what an image-text model gives."""

    vectors: Tensor
    """(N, D) float64, L2-normalised."""
    generic: Tensor
    """(D,) float64, the mean of the normalised vectors of sentences that fit any picture."""
    columns: tuple[int, int]
    """Which columns [first, stop) of the frame features lie in the same space."""
    row_s: tuple[float, ...]
    """Seconds that a row of each query's video stands for."""


@dataclass(frozen=True)
class WordMask:
    """Which words of each query are hidden for the rebuilding of words, and what they were."""

    masked: Tensor
    """(N, W) bool, words replaced by the learnable masked word."""
    unknown: Tensor
    """(N, W) bool, words outside the vocabulary: replaced by the learnable unknown word."""
    labels: Tensor
    """(N, W) int64, class of each word."""


@dataclass(frozen=True)
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

    @cached_property
    def window_mask(self) -> Tensor:
        """(N, M) bool: which windows are no padding."""
        count = np.array(self.window_counts)
        return to_device(np.arange(self.windows.shape[1]) < count[:, None], self.windows.device)


@dataclass(frozen=True)
class Plan:
    """Where what a step reads lies: whatever of it the host has to know, so that the network is tensors only.

    A pair is a query with its own words or, the second half where there are negatives, with those of another query.
    """

    video: Tensor
    """(M,) int64, the video of each query, those that only lend their words included."""
    group: Tensor
    """(M,) int64, the group of each."""
    pairs: Layout
    """The frames of each pair."""
    rows: Tensor
    """(T,) int64, the packed row of the videos that each row of `pairs` copies."""
    extended: Layout
    """The same with the global token in front of each."""
    first: Tensor
    """(P,) int64, the rows of `extended` that are global tokens."""
    others: Tensor
    """(T,) int64, those that are not."""
    answered: Layout
    """The leading pairs: the queries that are answered, with their own words."""
    words: Layout
    """The valid words of the queries that are answered."""
    all_words: Layout
    """The valid words of all queries, those that only lend them included."""


@dataclass(frozen=True)
class Joined:
    """The frames of each query's video and the query's words as one sequence."""

    layout: Layout
    """The sequences, frames first."""
    order: Tensor
    """(T,) int64: of all packed frames and, behind them, all packed words, the one that each row is."""
    frames: Tensor
    """(T',) int64: the rows that are frames."""


@dataclass(frozen=True)
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
    words: Words
    negative_query: Tensor | None = None
    """(N,) int64, for each query another one of the batch that does not describe its video; None without negatives."""
    word_mask: WordMask | None = None
    targets: Targets | None = None
    answered: int = 0
    """How many of the queries are answered, the leading ones; the others only lend their words as negatives, and
    `negative_query`, `word_mask` and `targets` do not have them. 0: all."""
    sentences: Sentences | None = None
    """For networks whose configuration asks for `sentences`; None for all others."""
    narration: Tensor | None = None
    """(T, D_text) float32, what a narrator says at each row of `video`, as a vector; zeros where it says nothing. For
    networks whose configuration `reads_narration`; None for all others."""
    query_ids: Tensor | None = None
    """(N,) int64, which query of its split each one is; None when nobody has numbered them."""
    progress: Tensor | None = None
    """() float64, the share of the epochs that are done, for losses that change on the way; None outside of training,
    which counts as all."""

    @property
    def count(self) -> int:
        """Number of queries that are answered."""
        return self.answered or len(self.words.vectors)

    def query_mask(self) -> Tensor:
        """(N, L) bool: the valid frames of each query that is answered."""
        return self.frames.mask[self.plan.video[: self.count]]

    @cached_property
    def plan(self) -> Plan:
        """Where everything lies; made when first asked for."""
        device, count = self.words.vectors.device, self.count
        sequences = self.video_of_query[:count] * (1 if self.negative_query is None else 2)
        pairs, rows = self.frames.select(sequences)
        lengths = self.words.lengths or tuple(self.words.mask.sum(1).tolist())
        all_words = Layout(lengths, device, self.words.vectors.shape[1])
        video, group = (to_device(np.array(x), device) for x in (self.video_of_query, self.group_of_query))
        return Plan(
            video, group, pairs, rows, *pairs.with_prefix(), pairs.leading(count), all_words.leading(count), all_words
        )

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What networks keep with a batch, by their names: things that `Network.prepare` works out on the host."""
        return {}

    @cached_property
    def joined(self) -> Joined:
        """Where frames and words of the answered queries lie in one sequence a query; made when first asked for."""
        frames, words = (np.array(layout.lengths) for layout in (self.plan.answered, self.plan.words))
        both = frames + words
        query = np.arange(len(both)).repeat(both)
        place = np.arange(both.sum()) - (both.cumsum() - both)[query]
        is_frame = place < frames[query]
        frame = (frames.cumsum() - frames)[query] + place
        word = frames.sum() + (words.cumsum() - words)[query] + place - frames[query]
        device = self.video.device
        order = to_device(np.where(is_frame, frame, word), device)
        return Joined(Layout(both.tolist(), device), order, to_device(np.flatnonzero(is_frame), device))

    def prepare(self) -> None:
        """Do now what is done on the host, for a compiled network, which cannot."""
        _ = self.plan
        _ = None if self.targets is None else self.targets.window_mask

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor to a device."""
        moved: dict[str, Any] = {f.name: _to(getattr(self, f.name), device) for f in fields(self)}
        moved["frames"] = Layout(self.frames.lengths, device, self.frames.width)
        return Batch(**moved)


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Words | Sentences | WordMask | Targets):
        parts: dict[str, Any] = {f.name: _to(getattr(value, f.name), device) for f in fields(value)}
        return type(value)(**parts)
    return value


def in_float32(value: Any) -> Any:
    """Return a tensor, a list or a dataclass of tensors with every number in float32."""
    if isinstance(value, list):
        return [in_float32(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: in_float32(getattr(value, f.name)) for f in fields(value)})
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
