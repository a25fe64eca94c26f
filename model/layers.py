"""The layers that MESM is made of; packed tensors `(T, D)` in and out, see `mesm.model.layouts`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mesm.model.attention import attention, merge_heads, packed_attention, probes, split_heads, weighted_values
from mesm.model.elementwise import add_dropped, dropout
from mesm.model.feed_forward import feed_forward
from mesm.model.layouts import Layout

FLOOR = 0.01
"""Least deviation of a feature's column, as a share of the columns' root mean square deviation."""


class InputBlock(nn.Module):
    """LayerNorm, dropout, linear, optional ReLU: one step of an input projection."""

    def __init__(self, dim_in: int, dim_out: int, dropout: float, relu: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim_in)
        self.linear = nn.Linear(dim_in, dim_out)
        self.dropout, self.relu = dropout, relu

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) to (..., dim_out)."""
        x = self.linear(dropout(self.norm(x), self.dropout, self.training))
        return F.relu(x) if self.relu else x


class Standardise(nn.Module):
    """Subtract a mean and divide by a deviation, both measured on the training features and kept with the weights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    @torch.no_grad()
    def measure(self, parts: Iterable[Tensor]) -> None:
        """Take both from all rows of some tensors (rows, dim); columns that hardly vary are not blown up."""
        count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for part in parts:
            rows = part.detach().double().cpu()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        mean = total / max(count, 1)
        deviation = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
        floor = FLOOR * deviation.square().mean().sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=float(floor) or 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return (x - self.mean) / self.deviation


def input_projection(dim_in: int, dim: int, dropout: float) -> nn.Sequential:
    """Two input blocks, ReLU between them: the projection of frame or word features to the network's width."""
    return nn.Sequential(InputBlock(dim_in, dim, dropout, relu=True), InputBlock(dim, dim, dropout, relu=False))


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, dim_in: int, dim_hidden: int, dim_out: int, layers: int) -> None:
        super().__init__()
        dims = [dim_in] + [dim_hidden] * (layers - 1) + [dim_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) to (..., dim_out)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Attention(nn.Module):
    """Multi-head attention whose three input projections can be called apart, so that shared work is done once."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def projections(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Weight (D, D) and bias (D,) of the queries, the keys and the values, cut at once: so are their gradients."""
        return tuple(zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True))

    def attend_packed(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, mask: Tensor | None) -> Tensor:
        """Attend from packed q (T, D), before the output projection; returns (T, D).

        mask None: self-attention, k and v are packed as q is. Otherwise k, v: (N, Lk, D) and mask: (N, Lk), or one that
        broadcasts to (N, heads, Lq, Lk), True = visible.
        """
        if mask is None or mask.dim() == 2:
            return packed_attention(q, k, v, layout, mask, self.heads, self.dropout, self.training)
        k, v = (layout.pad(x) if x.dim() == 2 else x for x in (k, v))
        q, k, v = (split_heads(x, self.heads) for x in (layout.pad(q), k, v))
        return layout.pack(merge_heads(attention(q, k, v, mask, self.dropout, self.training)))

    def attend_from_one(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attend from one position a sequence without projecting the keys and values.

        Both projections move from the L positions to the one query, see `probes` and `weighted_values`. The key bias
        adds the same to every score and cancels in the softmax.

        x: (N, D) and keys, values: (N, L, D), none of them projected; mask: (N, heads or 1, L), True = visible. Returns
        (N, D), before the output projection.
        """
        (weight_q, bias_q), (weight_k, _), (weight_v, bias_v) = self.projections()
        q = F.linear(x[:, None], weight_q, bias_q)
        scores = torch.bmm(probes(q, weight_k, self.heads), keys.transpose(1, 2)) * (x.shape[-1] // self.heads) ** -0.5
        weights = dropout(scores.masked_fill(~mask, float("-inf")).softmax(-1), self.dropout, self.training)
        return weighted_values(weights, values, weight_v, bias_v, self.heads).squeeze(1)


class FeedForward(nn.Module):
    """The feed-forward weights of a layer: linear1, PReLU with one learnable slope (owned by the layer), linear2."""

    def __init__(self, dim: int, dim_hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, dim_hidden)
        self.linear2 = nn.Linear(dim_hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, residual: Tensor, x: Tensor, slope: Tensor, dropout: float) -> Tensor:
        """residual + Drop(W2 Drop(PReLU(W1 x))), without the norms; all (..., D)."""
        first, second = self.linear1, self.linear2
        return feed_forward(
            residual.flatten(0, -2),
            x.flatten(0, -2),
            first.weight,
            first.bias,
            slope,
            second.weight,
            second.bias,
            dropout,
            self.training,
        ).view(x.shape)


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


class RecurrentLayer(nn.Module):
    """A bidirectional GRU reads each sequence in order; what it says is added to the input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(T, D) packed to (T, D)."""
        # Autocast would turn to float16 on GPUs, whose gradients need scaling.
        with torch.autocast(x.device.type, enabled=False):
            sequences = pack_padded_sequence(
                layout.pad(x.float()), torch.tensor(layout.lengths), batch_first=True, enforce_sorted=False
            )
            read, _ = pad_packed_sequence(self.gru(sequences)[0], batch_first=True, total_length=layout.width)
        return x + layout.pack(read).to(x.dtype)


class EncoderLayer(nn.Module):
    """A post-norm self-attention layer (DETR) with PReLU; positions are added to queries and keys only."""

    def __init__(self, dim: int, heads: int, dim_hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.feed_forward = FeedForward(dim, dim_hidden)
        self.activation = nn.PReLU()
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
