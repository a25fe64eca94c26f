"""Packed batches: only the valid positions of padded sequences are computed.

Everything that acts on one position at a time (projections, norms, feed-forward layers) works on packed tensors
`(T, D)`, the valid positions of all sequences one after the other. Only attention needs the padded form `(N, L, D)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK_SCORES = 2**20
"""Attention scores that are computed at once on a CPU: 4 MiB of them."""


LONG = 96
"""Sequences of so many positions are attended to one by one on a CPU: their heads need no copies then."""


@dataclass(frozen=True)
class Block:
    """A run of sequences, and where they lie."""

    first: int
    last: int
    """Sequences [first, last)."""
    start: int
    stop: int
    """Their packed rows [start, stop)."""
    layout: Layout | None
    """How they are padded; None when they are of one length."""

    def split_heads(self, packed: Tensor, heads: int) -> Tensor:
        """(stop - start, D) to (last - first, heads, L, D / heads), in one pass; see `Layout.head_rows`."""
        if self.layout is None:
            return packed.view(self.last - self.first, -1, heads, packed.shape[1] // heads).transpose(1, 2)
        split, _ = self.layout.head_rows(heads)
        parts = packed.reshape(packed.shape[0] * heads, -1).index_select(0, split)
        return parts.view(self.last - self.first, heads, self.layout.width, -1)

    def merge_heads(self, parts: Tensor) -> Tensor:
        """(last - first, heads, L, D / heads) to (stop - start, D)."""
        heads = parts.shape[1]
        if self.layout is None:
            return parts.transpose(1, 2).flatten(2).flatten(0, 1)
        _, merged = self.layout.head_rows(heads)
        return parts.reshape(-1, parts.shape[-1]).index_select(0, merged).view(-1, heads * parts.shape[-1])


class Layout:
    """Where the valid positions of N sequences lie in a padded batch of width L.

    Built from lengths that the host knows, so that no step has to wait for the device.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu", width: int | None = None) -> None:
        """Describe sequences of these lengths, padded to `width` (default: the longest of them)."""
        self.lengths = tuple(int(length) for length in lengths)
        widest = max(self.lengths)
        self.width = widest if width is None else width
        if min(self.lengths) < 1 or widest > self.width:
            raise ValueError(f"lengths must be 1 to {self.width}, got {min(self.lengths)} to {widest}")
        self.full = all(length == self.width for length in self.lengths)
        self._host_lengths = np.array(self.lengths)
        self._starts = self._host_lengths.cumsum() - self._host_lengths
        sequence = np.arange(len(self.lengths)).repeat(self._host_lengths)
        place = np.arange(len(sequence)) - self._starts[sequence]
        rows = np.stack((sequence * self.width + place, place + 1, self._host_lengths[sequence], sequence))
        self.mask = to_device(np.arange(self.width) < self._host_lengths[:, None], device)
        """(N, L) bool, True at valid positions."""
        self.index, self.position, self.length_of_row, self.sequence_of_row = to_device(rows, device).unbind()
        """Of each packed row, all (T,) int64: its place in the flattened padded batch, its 1-based position in its
        sequence, the length of the sequence, and which one that is."""
        self._blocks: dict[tuple[int, int | None], list[Block]] = {}
        self._head_rows: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        """Where the index tensors live."""
        return self.mask.device

    def leading(self, count: int) -> Layout:
        """Lay out the first sequences only, in the same width."""
        return self if count == len(self) else Layout(self.lengths[:count], self.device, self.width)

    def pad(self, packed: Tensor) -> Tensor:
        """(T, D) to (N, L, D), zeros at padding."""
        sequences, width = self.mask.shape
        if not self.full:
            packed = packed.new_zeros(sequences * width, packed.shape[1]).index_copy_(0, self.index, packed)
        return packed.view(sequences, width, packed.shape[1])

    def pack(self, padded: Tensor) -> Tensor:
        """(N, L, D) to (T, D)."""
        flat = padded.flatten(0, 1)
        return flat if self.full else flat.index_select(0, self.index)

    def select(self, sequences: Sequence[int]) -> tuple[Layout, Tensor]:
        """Lay out the given sequences (repeats allowed) of this layout.

        Returns the new layout, of the same width, and (T',) the packed row of this layout that each of its rows copies.
        """
        chosen = Layout([self.lengths[i] for i in sequences], self.device, self.width)
        moved = self._starts[list(sequences)] - chosen._starts
        rows = np.arange(len(chosen.index)) + moved.repeat(chosen._host_lengths)
        return chosen, to_device(rows, self.device)

    def head_rows(self, heads: int) -> tuple[Tensor, Tensor]:
        """Where the heads of packed rows lie when every head of every sequence is padded by itself.

        Returns (N * heads * L,) which of the T * heads parts each padded place takes, and (T * heads,) the padded place
        of each part. Padding takes its own sequence's first row, so that no sequence can reach another.
        """
        if heads not in self._head_rows:
            row = to_device(self._starts.repeat(self.width), self.device)
            row[self.index] = torch.arange(len(self.index), device=self.device)
            head = torch.arange(heads, device=self.device)
            split = (row.view(len(self), 1, self.width) * heads + head[:, None]).flatten()
            first = (self.sequence_of_row * (heads - 1) * self.width + self.index)[:, None]
            merged = (first + head * self.width).flatten()
            self._head_rows[heads] = split, merged
        return self._head_rows[heads]

    def blocks(self, heads: int, keys: int | None = None) -> list[Block]:
        """Cut the sequences into runs that are attended to at once: as many as `BLOCK_SCORES` scores allow, or
        a single one that is `LONG`.

        keys: keys of every sequence; None: as many as it has positions itself (self-attention).
        """
        if (heads, keys) not in self._blocks:
            self._blocks[heads, keys] = self._cut(heads, keys)
        return self._blocks[heads, keys]

    def _cut(self, heads: int, keys: int | None) -> list[Block]:
        found: list[Block] = []
        first, width, start = 0, 0, 0
        ends = itertools.accumulate(self.lengths)
        for number, (length, end) in enumerate(zip(self.lengths, ends, strict=True)):
            wider = max(width, length)
            scores = (number + 1 - first) * heads * wider * (keys or wider)
            if number > first and (scores > BLOCK_SCORES or (keys is None and wider >= LONG)):
                found.append(self._block(first, number, start, end - length))
                first, wider, start = number, length, end - length
            width = wider
        found.append(self._block(first, len(self), start, sum(self.lengths)))
        return found

    def _block(self, first: int, last: int, start: int, stop: int) -> Block:
        lengths = self.lengths[first:last]
        same = len(set(lengths)) == 1
        return Block(first, last, start, stop, None if same else Layout(lengths, self.device))

    def with_prefix(self) -> tuple[Layout, Tensor, Tensor]:
        """Lay out the same sequences with one more position in front of each.

        Returns the new layout, (N,) its packed rows of the new positions and (T,) those of the others.
        """
        longer = Layout([length + 1 for length in self.lengths], self.device, self.width + 1)
        others = torch.arange(len(self.index), device=self.device) + self.sequence_of_row + 1
        return longer, to_device(longer._starts, self.device), others


def prepend(row: Tensor, packed: Tensor, first: Tensor, others: Tensor) -> Tensor:
    """(D,) and packed (T, D) to (N + T, D), by the rows that `Layout.with_prefix` returns."""
    out = packed.new_empty(len(first) + len(others), packed.shape[1]).index_copy_(0, others, packed)
    return out.index_copy_(0, first, row.to(packed.dtype).expand(len(first), -1))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, D) to (N, heads, L, D / heads)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(N, heads, L, D / heads) to (N, L, D)."""
    return x.transpose(1, 2).flatten(2)


def to_device(array: np.ndarray, device: torch.device | str) -> Tensor:
    """Move an array of the host to a device, without waiting for it."""
    return torch.from_numpy(array).to(device, non_blocking=True)
