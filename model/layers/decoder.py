"""The decoder: learnable spans attend to the frames and are refined layer by layer (DAB-DETR in one dimension)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mesm.model.kernels import add_dropped, attention, dropout
from mesm.model.layers.attention import probes, weighted_values
from mesm.model.layers.feed_forward import FeedForward
from mesm.model.layers.inputs import Mlp
from mesm.model.layouts import Layout, merge_heads, split_heads
from mesm.model.position import span_positions
from mesm.model.spans import inverse_sigmoid


class DecoderLayer(nn.Module):
    """Self-attention among the spans, cross-attention to the frames with content and position side by side."""

    def __init__(self, dim: int, heads: int, dim_hidden: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.first = heads, dropout, first
        self.self_content_q, self.self_position_q = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.self_content_k, self.self_position_k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.self_v, self.self_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.cross_content_q = nn.Linear(dim, dim)
        if first:
            self.cross_position_q = nn.Linear(dim, dim)
        self.cross_content_k, self.cross_position_k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.cross_v, self.cross_sine_q = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.cross_out = nn.Linear(dim, dim)
        self.feed_forward = FeedForward(dim, dim_hidden)
        self.norm3 = nn.LayerNorm(dim)
        self.activation = nn.PReLU()

    def forward(
        self, x: Tensor, memory: Tensor, positions: Tensor, mask: Tensor, query_pos: Tensor, query_sine: Tensor
    ) -> Tensor:
        """Refine the states of Q spans a query.

        x: (N, Q, D); memory, positions: (N, L, D) the frames and their codes; mask: (N, L), True = visible; query_pos:
        (N, Q, D), learned code of the spans; query_sine: (N, Q, D), their modulated sine code. Returns (N, Q, D).
        """
        weights = self.feed_forward
        attended = self._self_attention(x, query_pos)
        x = weights.norm1(add_dropped(x, attended, self.dropout, self.training))
        attended = self._cross_attention(x, memory, positions, mask, query_pos, query_sine)
        x = weights.norm2(add_dropped(x, attended, self.dropout, self.training))
        return self.norm3(weights(x, x, self.activation.weight, self.dropout))

    def _self_attention(self, x: Tensor, query_pos: Tensor) -> Tensor:
        q = split_heads(self.self_content_q(x) + self.self_position_q(query_pos), self.heads)
        k = split_heads(self.self_content_k(x) + self.self_position_k(query_pos), self.heads)
        v = split_heads(self.self_v(x), self.heads)
        return self.self_out(merge_heads(attention(q, k, v, None, self.dropout, self.training)))

    def _cross_attention(
        self, x: Tensor, memory: Tensor, positions: Tensor, mask: Tensor, query_pos: Tensor, query_sine: Tensor
    ) -> Tensor:
        """Attend to the frames, content and position of each head side by side, without projecting the frames.

        A query has few spans and many frames: what would turn frames to keys and values is applied to the spans
        instead, see `probes` and `weighted_values`. The biases of the keys add the same to all scores of a span, which
        the softmax undoes; they are added so that every parameter has a gradient.
        """
        content, position = self.cross_content_q(x), self.cross_sine_q(query_sine)
        if self.first:
            # The first layer adds the codes of the frames to their content too.
            content = content + self.cross_position_q(query_pos)
            position = position + content
        scale = (2 * x.shape[-1] // self.heads) ** -0.5
        pairs = ((content * scale, self.cross_content_k), (position * scale, self.cross_position_k))
        by_content, by_position = (probes(q, keys.weight, self.heads) for q, keys in pairs)
        biases = [split_heads(q * keys.bias, self.heads).sum(-1).flatten(1)[..., None] for q, keys in pairs]
        scores = torch.baddbmm(biases[0] + biases[1], by_content, memory.transpose(1, 2))
        scores = torch.baddbmm(scores, by_position, positions.transpose(1, 2))
        weights = scores.masked_fill(~mask[:, None], float("-inf")).softmax(-1)
        weights = dropout(weights, self.dropout, self.training)
        return self.cross_out(weighted_values(weights, memory, self.cross_v.weight, self.cross_v.bias, self.heads))


class Decoder(nn.Module):
    """Layers that share the heads which turn a state into the next reference span."""

    def __init__(self, dim: int, heads: int, dim_hidden: int, dropout: float, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, dim_hidden, dropout, first=i == 0) for i in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.query_scale = Mlp(dim, dim, dim, 2)
        self.position_head = Mlp(dim, dim, dim, 2)
        self.refine_head = Mlp(dim, dim, 2, 3)
        self.anchor_head = Mlp(dim, dim, 1, 2)

    def forward(
        self, spans: Tensor, memory: Tensor, positions: Tensor, mask: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Decode Q learnable spans over the frames.

        spans: (Q, 2) logits of the learnable spans; memory, positions: (N, L, D) the frames of N queries and their
        codes; mask: (N, L), True = visible. Returns, for each layer, the normed states (N, Q, D) and the reference
        spans (N, Q, 2) that the layer read.
        """
        n, _, dim = memory.shape
        reference = spans.sigmoid().expand(n, -1, -1)
        x = memory.new_zeros(n, spans.shape[0], dim)
        states, references = [], [reference]
        for i, layer in enumerate(self.layers):
            anchor = references[-1] if i == 0 else references[-1].detach()
            sine = span_positions(anchor, dim)
            query_pos = self.position_head(sine)
            query_sine = sine * (self.anchor_head(x).sigmoid() / anchor[..., 1:])
            if i > 0:
                query_sine = query_sine * self.query_scale(x)
            x = layer(x, memory, positions, mask, query_pos, query_sine)
            states.append(self.norm(x))
            if i + 1 < len(self.layers):
                references.append((self.refine_head(x) + inverse_sigmoid(anchor)).sigmoid())
        return states, references


def decode_spans(
    decoder: Decoder,
    spans: Tensor,
    span_head: nn.Module,
    class_head: nn.Module,
    memory: Tensor,
    positions: Tensor,
    layout: Layout,
) -> tuple[list[Tensor], list[Tensor]]:
    """Logits (N, Q, 2) and spans (N, Q, 2) of every decoder layer, the last layer first.

    spans: (Q, 2) logits of the learnable spans; span_head, class_head: (..., D) to (..., 2); memory, positions: (T, D)
    packed frames of the queries and their codes.
    """
    frames, codes = layout.pad(memory), layout.pad(positions)
    states, references = decoder(spans, frames, codes, layout.mask)
    found = [
        (span_head(state) + inverse_sigmoid(reference)).sigmoid()
        for state, reference in zip(states, references, strict=True)
    ]
    return [class_head(state) for state in reversed(states)], found[::-1]
