"""The feed-forward block of a layer, with a form for the CPU that passes over memory less often.

The hidden layer is four times as wide as the network, so that activation, dropout and their gradients take a large
share of a step on a CPU. Here these are one factor an entry, made once and used forward and backward, in place where
they can be. The mathematics are the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.kernels.dropout import apply_mask, draw_mask, dropout, prelu

BLOCK = 512
"""Rows whose gradient is passed over at once, so that it stays in the cache."""
LEAST_SLOPE = 1e-3
"""Below it the gradient of the slope cannot be had from what is behind the activation."""


def feed_forward(
    residual: Tensor,
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    slope: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    p: float,
    training: bool,
) -> Tensor:
    """residual + Drop(W2 Drop(PReLU(W1 x + b1)) + b2).

    residual, x: (T, D); weight1: (H, D); slope: (1,); weight2: (D, H); p: probability of both dropouts. Returns (T, D).
    """
    p = p if training else 0.0
    fits = x.dim() == 2 and x.device.type == "cpu" and not torch.compiler.is_compiling()
    if fits and x.dtype == weight1.dtype and not torch.is_autocast_enabled("cpu"):
        if not torch.is_grad_enabled() and p == 0:
            hidden = F.leaky_relu_(torch.addmm(bias1, x, weight1.T), slope.item())
            return torch.addmm(bias2, hidden, weight2.T).add_(residual)
        if slope.item() >= LEAST_SLOPE:
            return _FeedForward.apply(residual, x, weight1, bias1, slope, weight2, bias2, p)
    hidden = dropout(prelu(F.linear(x, weight1, bias1), slope), p, training)
    return residual + dropout(F.linear(hidden, weight2, bias2), p, training)


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
