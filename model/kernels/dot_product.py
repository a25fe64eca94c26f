"""Attention over padded and over packed sequences.

torch's fused attention does not drop weights on a CPU, so that its training path writes scores, weights, masks and
products of the whole padded batch to memory. Over packed sequences the fast form does a few of like length at a time:
it keeps to the cache, computes no padding between them and stores a bit more than the weights for the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.kernels.elementwise import draw_mask, fast_dropout
from mesm.model.layouts import Block, Layout, merge_heads, split_heads

LANES = 16
"""A softmax over fewer scores than a vector register holds is ten times as slow on a CPU as one over so many."""


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, training: bool) -> Tensor:
    """`mesm.model.kernels.attention` by torch."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p if training else 0.0)


def fast_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, training: bool) -> Tensor:
    """The same with fast dropout."""
    if p == 0 or not training:
        return plain_attention(q, k, v, mask, p, training)
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.matmul(fast_dropout(scores.softmax(-1), p, training), v)


def plain_packed_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, key_mask: Tensor | None, heads: int, p: float, training: bool
) -> Tensor:
    """`mesm.model.kernels.packed_attention` over the padded sequences, by torch."""
    if key_mask is None:
        k, v, key_mask = layout.pad(k), layout.pad(v), layout.mask
    q, k, v = (split_heads(x, heads) for x in (layout.pad(q), k, v))
    return layout.pack(merge_heads(plain_attention(q, k, v, key_mask[:, None, None], p, training)))


def fast_packed_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, key_mask: Tensor | None, heads: int, p: float, training: bool
) -> Tensor:
    """The same, block by block."""
    if p > 0 and training:
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
    """`fast_packed_attention` with dropout, and its gradient."""

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
