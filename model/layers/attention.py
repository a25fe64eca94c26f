"""Multi-head attention over packed sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.kernels import attention, dropout, packed_attention
from mesm.model.layouts import Layout, merge_heads, split_heads


def probes(q: Tensor, weight: Tensor, heads: int) -> Tensor:
    """What projected queries look for in keys that are not projected: q . (W y) = (W^T q) . y, head by head.

    q: (N, Q, D); weight: (D, D), the projection W of the keys. Returns (N, heads * Q, D). Where a sequence has few
    queries and many keys, this moves the projection from the keys to the queries.
    """
    n, queries, dim = q.shape
    split = q.view(n, queries, heads, -1)
    return torch.einsum("nqhs,hsd->nhqd", split, weight.view(heads, -1, dim)).flatten(1, 2)


def weighted_values(weights: Tensor, x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Sum of projected values, projected after the sum: sum(a (W x + b)) = W sum(a x) + b sum(a), head by head.

    weights: (N, heads * Q, L); x: (N, L, D), not projected; weight: (D, D) and bias: (D,), the projection of the
    values. Returns (N, Q, D), before the output projection.
    """
    n, _, dim = x.shape
    total = weights.sum(-1).view(n, heads, -1).transpose(1, 2)[..., None]
    mean = torch.bmm(weights, x).view(n, heads, -1, dim)
    values = torch.einsum("nhqd,hsd->nqhs", mean, weight.view(heads, -1, dim))
    return (values + total * bias.view(heads, -1)).flatten(2)


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
        """Attend from one position a sequence, x (N, D), as `attend_from_few` does from Q; returns (N, D)."""
        return self.attend_from_few(x[:, None], keys, values, mask).squeeze(1)

    def attend_from_few(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attend from few positions a sequence without projecting the keys and values.

        Both projections move from the L positions to the Q queries, see `probes` and `weighted_values`. The key bias
        adds the same to every score and cancels in the softmax.

        x: (N, Q, D) and keys, values: (N, L, D), none of them projected; mask: (N, heads * Q or 1, L), True = visible.
        Returns (N, Q, D), before the output projection.
        """
        (weight_q, bias_q), (weight_k, _), (weight_v, bias_v) = self.projections()
        q = F.linear(x, weight_q, bias_q)
        scores = torch.bmm(probes(q, weight_k, self.heads), keys.transpose(1, 2)) * (x.shape[-1] // self.heads) ** -0.5
        weights = dropout(scores.masked_fill(~mask, float("-inf")).softmax(-1), self.dropout, self.training)
        return weighted_values(weights, values, weight_v, bias_v, self.heads)
