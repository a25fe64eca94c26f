"""A decoder of learnable queries without reference points, as in DETR and Moment-DETR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.kernels import add_dropped, attention
from mesm.model.layers.attention import Attention
from mesm.model.layers.encoder import Rectifier
from mesm.model.layers.feed_forward import FeedForward
from mesm.model.layouts import merge_heads, split_heads


class QueryDecoderLayer(nn.Module):
    """Self-attention among the queries, cross-attention to a sequence, a feed-forward part; norms after each."""

    def __init__(self, dim: int, heads: int, dim_hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(dim, heads, dropout)
        self.cross_attention = Attention(dim, heads, dropout)
        self.feed_forward = FeedForward(dim, dim_hidden)
        self.norm3 = nn.LayerNorm(dim)
        self.activation = Rectifier()
        self.dropout = dropout

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Refine the states of Q queries.

        x: (N, Q, D); queries: (Q, D), their learned codes; memory: (N, L, D); keys: (N, L, D), memory and its codes;
        mask: (N, L), True = visible. Returns (N, Q, D).
        """
        weights, cross = self.feed_forward, self.cross_attention
        x = weights.norm1(add_dropped(x, self._self_attention(x, queries), self.dropout, self.training))
        attended = cross.out_proj(cross.attend_from_few(x + queries, keys, memory, mask[:, None]))
        x = weights.norm2(add_dropped(x, attended, self.dropout, self.training))
        return self.norm3(weights(x, x, self.activation.weight, self.dropout))

    def _self_attention(self, x: Tensor, queries: Tensor) -> Tensor:
        block = self.self_attention
        for_queries, for_keys, for_values = block.projections()
        place = x + queries
        inputs = ((place, for_queries), (place, for_keys), (x, for_values))
        q, k, v = (split_heads(F.linear(value, *projection), block.heads) for value, projection in inputs)
        return block.out_proj(merge_heads(attention(q, k, v, None, block.dropout, self.training)))


class QueryDecoder(nn.Module):
    """Layers over states that begin at 0, and one norm for what each of them says."""

    def __init__(self, dim: int, heads: int, dim_hidden: int, dropout: float, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(QueryDecoderLayer(dim, heads, dim_hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, memory: Tensor, positions: Tensor, mask: Tensor) -> list[Tensor]:
        """Read a sequence with Q learned queries (Q, D).

        memory, positions: (N, L, D) and its codes; mask: (N, L), True = visible. Returns the states of each layer,
        (N, Q, D).
        """
        keys = memory + positions
        x = memory.new_zeros(memory.shape[0], *queries.shape)
        states = []
        for layer in self.layers:
            x = layer(x, queries, memory, keys, mask)
            states.append(self.norm(x))
        return states
