"""Layers that attend: to another sequence, or to their own; packed tensors `(T, D)` in and out."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.kernels import add_dropped
from mesm.model.layers.attention import Attention
from mesm.model.layers.feed_forward import FeedForward
from mesm.model.layouts import Layout


class CrossLayer(nn.Module):
    """The cross-attention layer of FW-MESM, SS-MESM and the modality aligner.

    With q = x + pos_x, k = y + pos_y, v = y: h = x + Drop(Attn(q, k, v));
    out = LN2(h + Drop(W2 Drop(PReLU(W1 LN1(h))))). LN1 feeds the feed-forward layer only.
    `words` is a second set of feed-forward weights, for rebuilding masked words, when these are not shared.
    """

    def __init__(self, dim: int, heads: int, dim_hidden: int, dropout: float, separate_words: bool = False) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.frames = FeedForward(dim, dim_hidden)
        self.words = FeedForward(dim, dim_hidden) if separate_words else None
        self.activation = nn.PReLU()
        self.dropout = dropout

    def forward(
        self, x: Tensor, q: Tensor, layout: Layout, k: Tensor, v: Tensor, mask: Tensor, words: bool = False
    ) -> Tensor:
        """Attend from packed x to padded keys and values.

        x: (T, D) and q: (T, D), its projected queries, both laid out by `layout`; k, v: (N, Lk, D), projected;
        mask: (N, Lk), or what broadcasts to (N, heads, Lq, Lk), True = visible; words: use the words' feed-forward
        weights. Returns (T, D).
        """
        return self.finish(x, self.attention.attend_packed(q, k, v, layout, mask), words)

    def finish(self, x: Tensor, attended: Tensor, words: bool = False) -> Tensor:
        """Everything after the attention: (T, D) input and attended values to (T, D)."""
        weights = self.words if words and self.words is not None else self.frames
        h = add_dropped(x, self.attention.out_proj(attended), self.dropout, self.training)
        return weights.norm2(weights(h, weights.norm1(h), self.activation.weight, self.dropout))


class Rectifier(nn.Module):
    """What PReLU is with a slope of 0 that is not learnt: ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.zeros(1), persistent=False)


class EncoderLayer(nn.Module):
    """A post-norm self-attention layer (DETR); positions are added to queries and keys only.

    Its feed-forward part has PReLU, or ReLU where it is `rectified`.
    """

    def __init__(self, dim: int, heads: int, dim_hidden: int, dropout: float, rectified: bool = False) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.feed_forward = FeedForward(dim, dim_hidden)
        self.activation = Rectifier() if rectified else nn.PReLU()
        self.dropout = dropout

    def forward(self, x: Tensor, positions: Tensor, layout: Layout, mask: Tensor | None = None) -> Tensor:
        """(T, D) packed and its position codes to (T, D).

        mask broadcasts to (N, heads, L, L), True = visible; None: every valid position sees all of its sequence.
        """
        block, weights = self.attention, self.feed_forward
        dim = x.shape[-1]
        sizes = [2 * dim, dim]
        (weight, weight_v), (bias, bias_v) = block.in_proj_weight.split(sizes), block.in_proj_bias.split(sizes)
        q, k = F.linear(x + positions, weight, bias).split(dim, dim=-1)
        attended = block.out_proj(block.attend_packed(q, k, F.linear(x, weight_v, bias_v), layout, mask))
        x = weights.norm1(add_dropped(x, attended, self.dropout, self.training))
        return weights.norm2(weights(x, x, self.activation.weight, self.dropout))


class CrossEncoder(nn.Module):
    """A stack of cross layers whose keys and values stay the same."""

    def __init__(
        self, layers: int, dim: int, heads: int, dim_hidden: int, dropout: float, separate_words: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(dim, heads, dim_hidden, dropout, separate_words) for _ in range(layers))

    def forward(
        self,
        x: Tensor,
        x_pos: Tensor | None,
        layout: Layout,
        y: Tensor,
        y_pos: Tensor | None,
        mask: Tensor,
        x_rows: Tensor | None = None,
        y_rows: Tensor | None = None,
        words: bool = False,
    ) -> Tensor:
        """Let packed x attend to padded y; what several sequences share is projected once.

        x, x_pos: (T, D) laid out by `layout`, or fewer rows of which `x_rows` (T,) repeats some; y, y_pos: (N, Lk, D),
        or fewer sequences of which `y_rows` (N,) repeats some; mask: (N, Lk), or what broadcasts to (N, heads, Lq, Lk),
        True = visible; words: use the words' feed-forward weights. Returns (T, D).
        """
        y_key = y if y_pos is None else y + y_pos
        for i, layer in enumerate(cast("list[CrossLayer]", self.layers)):
            for_queries, for_keys, for_values = layer.attention.projections()
            q = F.linear(x if x_pos is None else x + x_pos, *for_queries)
            if i == 0 and x_rows is not None:
                x, q = x.index_select(0, x_rows), q.index_select(0, x_rows)
                x_pos = None if x_pos is None else x_pos.index_select(0, x_rows)
            k, v = F.linear(y_key, *for_keys), F.linear(y, *for_values)
            if y_rows is not None:
                k, v = k.index_select(0, y_rows), v.index_select(0, y_rows)
            x = layer(x, q, layout, k, v, mask, words)
        return x
