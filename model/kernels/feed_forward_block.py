"""The feed-forward block of a layer.

The hidden layer is four times as wide as the network, so that activation, dropout and their gradients take a large
share of a step on a CPU. The fast form makes of them one factor an entry, which is used forward and backward, in place
where it can be.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.kernels.elementwise import apply_mask, draw_mask, fast_add_dropped, fast_dropout, fast_prelu

BLOCK = 512
"""Rows whose gradient is passed over at once, so that it stays in the cache."""
LEAST_SLOPE = 1e-3
"""Below it the gradient of the slope cannot be had from what is behind the activation."""

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
"""W1 (H, D), b1 (H,), W2 (D, H) and b2 (D,)."""


def plain_feed_forward(
    residual: Tensor, x: Tensor, weights: Weights, slope: Tensor, p: float, training: bool
) -> Tensor:
    """`mesm.model.kernels.feed_forward` by torch."""
    weight1, bias1, weight2, bias2 = weights
    hidden = F.dropout(F.prelu(F.linear(x, weight1, bias1), slope), p, training)
    return residual + F.dropout(F.linear(hidden, weight2, bias2), p, training)


def fast_feed_forward(residual: Tensor, x: Tensor, weights: Weights, slope: Tensor, p: float, training: bool) -> Tensor:
    """The same with masks of `draw_mask` and fewer passes over memory."""
    weight1, bias1, weight2, bias2 = weights
    p = p if training else 0.0
    if not torch.is_grad_enabled() and p == 0:
        flat, below = x.flatten(0, -2), residual.flatten(0, -2)
        hidden = F.leaky_relu_(torch.addmm(bias1, flat, weight1.T), slope.item())
        return torch.addmm(bias2, hidden, weight2.T).add_(below).view(residual.shape)
    if slope.item() >= LEAST_SLOPE:
        flat, below = x.flatten(0, -2), residual.flatten(0, -2)
        return _FeedForward.apply(below, flat, weight1, bias1, slope, weight2, bias2, p).view(residual.shape)
    hidden = fast_dropout(fast_prelu(F.linear(x, weight1, bias1), slope), p, training)
    return fast_add_dropped(residual, F.linear(hidden, weight2, bias2), p, training)


class _FeedForward(torch.autograd.Function):
    """With z = W1 x + b1, the hidden layer behind its dropout is z * rate, where rate is 0, the slope or 1.

    The dropout's factor goes into the products. An entry's derivative by the slope is z where z < 0 and it is kept,
    which is hidden / slope, else 0: the gradient of the slope needs nothing but the hidden layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        x: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        slope: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        p: float,
    ) -> Tensor:
        before = torch.addmm(bias1, x, weight1.T)
        ctx.factor, ctx.factor_out, keep_out = 1.0, 1.0, None
        if p == 0:
            rate = torch.ones_like(before)
        else:
            keep, ctx.factor = draw_mask(before.shape, p)
            rate = keep.to(before.dtype)
        torch.ops.aten.leaky_relu_backward.grad_input(rate, before, slope.item(), False, grad_input=rate)
        hidden = before.mul_(rate)
        below = torch.addmm(bias2, hidden, weight2.T, alpha=ctx.factor)
        if p > 0:
            keep_out, ctx.factor_out = draw_mask(below.shape, p)
            mask = keep_out.to(below.dtype)
            out = torch.addcmul(residual, mask, below, value=ctx.factor_out, out=mask)
        else:
            out = below.add_(residual)
        ctx.save_for_backward(x, weight1, slope, weight2, rate, hidden, keep_out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, slope, weight2, rate, hidden, keep_out = ctx.saved_tensors
        above = gradient
        if keep_out is not None:
            above = apply_mask(gradient, keep_out, ctx.factor_out * ctx.factor)
        grad_weight2 = above.T @ hidden
        grad_hidden = above @ weight2
        grad_slope = torch.zeros_like(slope)
        for block, values, rates in zip(*(t.split(BLOCK) for t in (grad_hidden, hidden, rate)), strict=True):
            grad_slope += torch.dot(block.reshape(-1), values.clamp(max=0).view(-1))
            block.mul_(rates)
        grad_slope /= slope
        grad_before = grad_hidden
        # This side first is the faster product.
        grad_weight1 = (x.T @ grad_before).T.contiguous()
        return (
            gradient,
            grad_before @ weight1,
            grad_weight1,
            grad_before.sum(0),
            grad_slope,
            grad_weight2,
            above.sum(0) / ctx.factor,
            None,
        )
