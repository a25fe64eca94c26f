"""The feed-forward block of a layer, with a form for the CPU that passes over memory less often.

The hidden layer is four times as wide as the network, so that activation, dropout and their gradients take a large
share of a step on a CPU. Here these are done in place where they can, and of the hidden layer only the state before the
activation and a byte an entry are kept for the gradient. The mathematics are the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.elementwise import apply_mask, draw_mask, dropout, prelu


def feed_forward(
    residual: Tensor, x: Tensor, weight1: Tensor, bias1: Tensor, slope: Tensor, weight2: Tensor, bias2: Tensor,
    p: float, training: bool,
) -> Tensor:  # fmt: skip
    """residual + Drop(W2 Drop(PReLU(W1 x + b1)) + b2).

    residual, x: (T, D); weight1: (H, D); slope: (1,); weight2: (D, H); p: probability of both dropouts. Returns (T, D).
    """
    p = p if training else 0.0
    fits = x.dim() == 2 and x.device.type == "cpu" and not torch.compiler.is_compiling()
    if fits and x.dtype == weight1.dtype and not torch.is_autocast_enabled("cpu"):
        return _FeedForward.apply(residual, x, weight1, bias1, slope, weight2, bias2, p)
    hidden = dropout(prelu(F.linear(x, weight1, bias1), slope), p, training)
    return residual + dropout(F.linear(hidden, weight2, bias2), p, training)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, x: Tensor, weight1: Tensor, bias1: Tensor, slope: Tensor, weight2: Tensor,
        bias2: Tensor, p: float,
    ) -> Tensor:  # fmt: skip
        before = torch.addmm(bias1, x, weight1.T)
        hidden = F.leaky_relu(before, float(slope))
        if p == 0:
            ctx.save_for_backward(x, weight1, slope, weight2, before)
            return residual + torch.addmm(bias2, hidden, weight2.T)
        keep, ctx.factor = draw_mask(hidden.shape, p)
        below = torch.addmm(bias2, apply_mask(hidden, keep, ctx.factor), weight2.T)
        keep_out, ctx.factor_out = draw_mask(below.shape, p)
        ctx.save_for_backward(x, weight1, slope, weight2, before, keep, keep_out)
        mask = keep_out.to(below.dtype)
        return torch.addcmul(residual, mask, below, value=ctx.factor_out, out=mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, slope, weight2, before, *keeps = ctx.saved_tensors
        a, above = float(slope), gradient
        hidden = F.leaky_relu(before, a)
        if keeps:
            above = apply_mask(gradient, keeps[1], ctx.factor_out)
            hidden = apply_mask(hidden, keeps[0], ctx.factor)
        grad_weight2 = above.T @ hidden
        grad_hidden = torch.mm(above, weight2, out=hidden)
        if keeps:
            grad_hidden = apply_mask(grad_hidden, keeps[0], ctx.factor)
        grad_slope = torch.dot(grad_hidden.view(-1), before.clamp(max=0).view(-1)).view(1)
        grad_before = torch.ops.aten.leaky_relu_backward(grad_hidden, before, a, False)
        return (
            gradient, grad_before @ weight1, grad_before.T @ x, grad_before.sum(0), grad_slope, grad_weight2,
            above.sum(0), None,
        )  # fmt: skip
