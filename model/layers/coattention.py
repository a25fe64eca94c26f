"""Encoders of points and words together: decoupled (MSAT) and asymmetric (arXiv 2312.07435) co-attention.

Both keep two packed sequences a query: the points of its video and its words. LayerNorms follow the residuals; widths
and names of the parts are those of BERT's layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.kernels import add_dropped, attention, dropout, packed_attention
from mesm.model.layouts import Layout, merge_heads, split_heads, to_device

NORM_EPS = 1e-12


@dataclass(frozen=True)
class PointsAndWords:
    """Where points and words of N queries lie."""

    points: Layout
    """Of one length."""
    words: Layout
    joined: Layout
    """Points and words of each query one after the other."""
    order: Tensor
    """(T,) int64: of all packed points and, behind them, all packed words, the one that each row of `joined` is."""
    point_rows: Tensor
    """(T',) int64: the rows of `joined` that are points."""
    word_rows: Tensor
    """(T'',) int64: those that are words."""


def lay_out(words: Layout, points: int) -> PointsAndWords:
    """Say where points and words of N queries lie, apart and as one sequence each."""
    lengths, device = np.array(words.lengths), words.device
    both = lengths + points
    query = np.arange(len(both)).repeat(both)
    place = np.arange(both.sum()) - (both.cumsum() - both)[query]
    is_point = place < points
    word = len(both) * points + (lengths.cumsum() - lengths)[query] + place - points
    order = np.where(is_point, query * points + place, word)
    rows = (np.flatnonzero(is_point), np.flatnonzero(~is_point))
    return PointsAndWords(
        Layout([points] * len(both), device),
        words,
        Layout(both.tolist(), device),
        to_device(order, device),
        *(to_device(found, device) for found in rows),
    )


class Residual(nn.Module):
    """LayerNorm(drop(W context + b) + x)."""

    def __init__(self, dim_in: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.dense, self.norm, self.dropout = nn.Linear(dim_in, dim), nn.LayerNorm(dim, eps=NORM_EPS), dropout

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        """context: (T, D_in), x: (T, D); returns (T, D)."""
        return self.norm(add_dropped(x, self.dense(context), self.dropout, self.training))


class GeluBlock(nn.Module):
    """Feed-forward layer of one hidden layer with GELU, its residual and norm."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, hidden), Residual(hidden, dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        return self.outer(F.gelu(self.inner(x)), x)


class JointAttention(nn.Module):
    """Attention of one modality to itself and to the other one in one softmax, each with projections of its own."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.query_other, self.key_other, self.value_other = (nn.Linear(dim, dim) for _ in range(3))
        self.output = Residual(dim, dim, dropout)

    def forward(self, x: Tensor, layout: Layout, other: Tensor, other_layout: Layout) -> Tensor:
        """x: (T, D) packed by `layout`; other: (T', D) packed by `other_layout`; returns (T, D).

        Scores [q k^T, q' k'^T] are those of the query [q, q'] with the keys [k, 0] and [0, k'].
        """
        width = x.shape[1] // self.heads

        def heads_of(rows: Tensor, by: Layout) -> Tensor:
            return split_heads(by.pad(rows), self.heads)

        # The kernel divides by the root of the doubled width.
        query = torch.cat([heads_of(part(x), layout) for part in (self.query, self.query_other)], -1) * math.sqrt(2)
        own = F.pad(heads_of(self.key(x), layout), (0, width))
        across = F.pad(heads_of(self.key_other(other), other_layout), (width, 0))
        value = (heads_of(self.value(x), layout), heads_of(self.value_other(other), other_layout))
        mask = torch.cat((layout.mask, other_layout.mask), dim=1)[:, None, None]
        keys, values = torch.cat((own, across), 2), torch.cat(value, 2)
        context = attention(query, keys, values, mask, self.dropout, self.training)
        return self.output(layout.pack(merge_heads(context)), x)


class DecoupledLayer(nn.Module):
    """A layer of MSAT: both modalities read the layer's inputs, each through attention and a feed-forward layer."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attend_words, self.attend_points = (JointAttention(dim, heads, dropout) for _ in range(2))
        self.feed_words, self.feed_points = (GeluBlock(dim, hidden, dropout) for _ in range(2))

    def forward(
        self, points: Tensor, words: Tensor, lie: PointsAndWords, with_words: bool = True
    ) -> tuple[Tensor, Tensor]:
        """points: (T, D), words: (T', D); returns both. with_words: also work out the words; else they come back."""
        found = self.feed_points(self.attend_points(points, lie.points, words, lie.words))
        if not with_words:
            return found, words
        return found, self.feed_words(self.attend_words(words, lie.words, points, lie.points))


class DecoupledEncoder(nn.Module):
    """MSAT's encoder; its layers begin alike."""

    def __init__(self, layers: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoupledLayer(dim, heads, hidden, dropout) for _ in range(layers))

    def initialise(self) -> None:
        """Make all layers copies of the first one, as published."""
        first = self.layers[0].state_dict()
        for layer in self.layers[1:]:
            layer.load_state_dict(first)

    def forward(self, points: Tensor, words: Tensor, lie: PointsAndWords, with_words: bool) -> tuple[Tensor, Tensor]:
        """As a layer; with_words: whether the words are needed behind the last layer."""
        for number, layer in enumerate(self.layers, 1):
            points, words = layer(points, words, lie, with_words or number < len(self.layers))
        return points, words


class PlainAttention(nn.Module):
    """Multi-head attention with residual and norm."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.output = Residual(dim, dim, dropout)

    def forward(self, x: Tensor, layout: Layout, other: Tensor | None = None, by: Layout | None = None) -> Tensor:
        """x: (T, D) packed by `layout`, which attends to itself or to `other` (T', D), packed by `by`; (T, D)."""
        source = x if other is None else other
        key, value, mask = self.key(source), self.value(source), None
        if by is not None:
            key, value, mask = by.pad(key), by.pad(value), by.mask
        context = packed_attention(self.query(x), key, value, layout, mask, self.heads, self.dropout, self.training)
        return self.output(context, x)


class AsymmetricBlock(nn.Module):
    """Words attend to themselves and then to the video, which is passed on unchanged."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attend = PlainAttention(dim, heads, dropout)
        self.attend_points = PlainAttention(dim, heads, dropout)
        self.feed = GeluBlock(dim, hidden, dropout) if hidden else nn.Identity()

    def forward(self, points: Tensor, words: Tensor, lie: PointsAndWords) -> tuple[Tensor, Tensor]:
        """points: (T, D), words: (T', D); returns both."""
        words = self.attend(words, lie.words)
        return points, self.feed(self.attend_points(words, lie.words, points, lie.points))


class ConnectedBlock(nn.Module):
    """Points and words attend to one another as one sequence."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attend = PlainAttention(dim, heads, dropout)
        self.feed = GeluBlock(dim, hidden, dropout) if hidden else nn.Identity()

    def forward(self, points: Tensor, words: Tensor, lie: PointsAndWords) -> tuple[Tensor, Tensor]:
        """points: (T, D), words: (T', D); returns both."""
        both = torch.cat((points, words)).index_select(0, lie.order)
        both = self.feed(self.attend(both, lie.joined))
        return both.index_select(0, lie.point_rows), both.index_select(0, lie.word_rows)


class AsymmetricEncoder(nn.Module):
    """Groups of asymmetric blocks, a connected one at the end of each; hidden 0: no feed-forward layers."""

    def __init__(self, groups: int, asymmetric: int, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        kinds = ([AsymmetricBlock] * asymmetric + [ConnectedBlock]) * groups
        self.layers = nn.ModuleList(kind(dim, heads, hidden, dropout) for kind in kinds)

    def forward(self, points: Tensor, words: Tensor, lie: PointsAndWords, with_words: bool) -> tuple[Tensor, Tensor]:
        """As a block. The last one works on points and words together, so that words are always worked out."""
        for layer in self.layers:
            points, words = layer(points, words, lie)
        return points, words


class Drop(nn.Module):
    """Dropout by the house's kernel."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries of any tensor."""
        return dropout(x, self.p, self.training)
