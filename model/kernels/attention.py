"""Attention over packed sequences, with a form for training on a CPU that keeps to its cache and stores little.

torch's fused attention does not drop weights on a CPU, so that its training path writes scores, weights, masks and
products of the whole padded batch to memory. Here a few sequences of like length are done at a time: no padding between
them, and a bit more than the weights is kept for the gradient. Other devices use torch's own operator. The mathematics
are the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.kernels.dropout import draw_mask, dropout
from mesm.model.layouts import Block, Layout

LANES = 16
"""A softmax over fewer scores than a vector register holds is ten times as slow on a CPU as one over so many."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, D) to (N, heads, L, D / heads)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(N, heads, L, D / heads) to (N, L, D)."""
    return x.transpose(1, 2).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, training: bool) -> Tensor:
    """Scaled dot-product attention with dropout of its weights.

    q: (N, H, Lq, D); k: (N, H, Lk, D); v: (N, H, Lk, Dv); mask: broadcasts to (N, H, Lq, Lk), True = visible, at least
    one key of every query. Returns (N, H, Lq, Dv).
    """
    p = p if training else 0.0
    if p == 0 or q.device.type != "cpu" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.matmul(dropout(scores.softmax(-1), p, training), v)


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


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, key_mask: Tensor | None, heads: int, p: float, training: bool
) -> Tensor:
    """Attention whose keys are hidden by padding only, with dropout of its weights.

    q: (T, D) packed by `layout`; k, v: (T, D) packed by it too (self-attention, key_mask None), or (N, Lk, D) with
    key_mask (N, Lk), True = visible. Returns (T, D).
    """
    p = p if training else 0.0
    if q.device.type != "cpu" or q.dtype != torch.float32 or torch.compiler.is_compiling():
        if key_mask is None:
            k, v, key_mask = layout.pad(k), layout.pad(v), layout.mask
        q, k, v = (split_heads(x, heads) for x in (layout.pad(q), k, v))
        return layout.pack(merge_heads(attention(q, k, v, key_mask[:, None, None], p, training)))
    if p > 0:
        if key_mask is not None and k.shape[1] < LANES:
            more = LANES - k.shape[1]
            k, v, key_mask = F.pad(k, (0, 0, 0, more)), F.pad(v, (0, 0, 0, more)), F.pad(key_mask, (0, more))
        return _PackedAttention.apply(q, k, v, layout, key_mask, heads, p)
    results = []
    for block in layout.blocks(heads, None if key_mask is None else k.shape[1]):
        queries, keys, values = (_heads(x, block, heads) for x in (q, k, v))
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=_visible(block, key_mask))
        results.append(block.merge_heads(out))
    return torch.cat(results)


def _heads(x: Tensor, block: Block, heads: int) -> Tensor:
    """(n, heads, L, D / heads) of a block: of a packed tensor, or of one with a row a sequence."""
    if x.dim() == 2:
        return block.split_heads(x[block.start : block.stop], heads)
    return split_heads(x[block.first : block.last], heads)


def _visible(block: Block, key_mask: Tensor | None) -> Tensor | None:
    """Mask of a block's keys that broadcasts to (n, heads, Lq, Lk); None when all are seen."""
    if key_mask is None:
        return None if block.layout is None else block.layout.mask[:, None, None]
    return key_mask[block.first : block.last, None, None]


class _PackedAttention(torch.autograd.Function):
    """`packed_attention` for training on a CPU, block by block."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, key_mask: Tensor | None, heads: int, p: float
    ) -> Tensor:
        out = torch.empty_like(q)
        ctx.blocks = layout.blocks(heads, None if key_mask is None else k.shape[1])
        ctx.heads, ctx.scale = heads, (q.shape[1] // heads) ** -0.5
        saved: list[Tensor] = []
        ctx.factors = []
        for block in ctx.blocks:
            queries, keys, values = (_matrices(_heads(x, block, heads)) for x in (q, k, v))
            scores = _product(queries, keys.transpose(1, 2), ctx.scale)
            visible = _visible(block, key_mask)
            if visible is not None:
                hidden = torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))
                scores.view(-1, heads, *scores.shape[1:]).add_(hidden)
            weights = torch.softmax(scores, dim=-1, out=scores)
            keep, factor = draw_mask(weights.shape, p)
            _put(out, block, _product(keep.to(weights.dtype).mul_(weights), values, factor), heads)
            saved += [weights, keep]
            ctx.factors.append(factor)
        ctx.save_for_backward(q, k, v, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        for number, (block, factor) in enumerate(zip(ctx.blocks, ctx.factors, strict=True)):
            weights, keep = saved[2 * number : 2 * number + 2]
            above = _heads(gradient, block, ctx.heads)
            if block.layout is not None:
                # What lies at padding must not reach keys and values.
                above.mul_(block.layout.mask[:, None, :, None])
            above = _matrices(above)
            queries, keys, values = (_matrices(_heads(x, block, ctx.heads)) for x in (q, k, v))
            mask = keep.to(weights.dtype)
            dropped = weights * mask
            _put(grad_v, block, _product(dropped.transpose(1, 2), above, factor), ctx.heads)
            grad_weights = _product(above, values.transpose(1, 2), factor, out=dropped).mul_(mask)
            grad_scores = torch.ops.aten._softmax_backward_data.out(
                grad_weights, weights, -1, weights.dtype, grad_input=mask
            )
            _put(grad_q, block, _product(grad_scores, keys, ctx.scale), ctx.heads)
            _put(grad_k, block, _product(grad_scores.transpose(1, 2), queries, ctx.scale), ctx.heads)
        return grad_q, grad_k, grad_v, None, None, None, None


def _matrices(x: Tensor) -> Tensor:
    """(n, heads, L, d) to (n * heads, L, d): a view of a single sequence, else contiguous."""
    return x[0] if x.shape[0] == 1 else x.contiguous().view(-1, *x.shape[2:])


def _product(a: Tensor, b: Tensor, factor: float, out: Tensor | None = None) -> Tensor:
    """factor * a @ b of batches of matrices."""
    if out is None:
        out = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    return torch.baddbmm(out, a, b, beta=0, alpha=factor, out=out)


def _put(out: Tensor, block: Block, x: Tensor, heads: int) -> None:
    """Write (n * heads, L, D / heads) to where the block's rows, or its sequences, lie."""
    parts = x.view(-1, heads, *x.shape[1:])
    if out.dim() == 2 and block.layout is not None:
        out[block.start : block.stop] = block.merge_heads(parts)
        return
    place = out[block.start : block.stop] if out.dim() == 2 else out[block.first : block.last]
    merged = parts.transpose(1, 2)
    place.view(*merged.shape).copy_(merged)
