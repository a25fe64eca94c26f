"""Dropout and PReLU.

torch draws one random number at a time for dropout on a CPU, and its gradient of a scalar PReLU slope does not
vectorise: either takes longer there than the matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**8
_ZERO = torch.zeros(())


def plain_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`mesm.model.kernels.dropout` by torch."""
    return F.dropout(x, p, training)


def fast_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """The same with masks of `draw_mask`."""
    return _Dropout.apply(x, p) if training and p > 0 else x


def plain_add_dropped(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """`mesm.model.kernels.add_dropped` by torch."""
    return residual + F.dropout(x, p, training)


def fast_add_dropped(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """The same with masks of `draw_mask`, in one pass."""
    return _AddDropped.apply(residual, x, p) if training and p > 0 else residual + x


def fast_prelu(x: Tensor, slope: Tensor) -> Tensor:
    """PReLU with one slope (1,), whose gradient is one product of vectors."""
    return _Prelu.apply(x, slope)


def draw_mask(shape: Sequence[int], p: float) -> tuple[Tensor, float]:
    """Draw which entries a dropout keeps, on the CPU: (uint8 of `shape`, 1 = kept; factor of what is kept).

    A byte an entry decides, so that a call drops n / 256 of them; where p lies between two such shares, it takes the
    upper or the lower one at random so that p is their mean. The factor is that of the share which was taken. At least
    1 / 256 is kept.
    """
    count = math.prod(shape)
    bits = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw(count // 8 + 2)
    level = int(p * _LEVELS)
    level += int(bits[-1]) < (p * _LEVELS - level) * 2**64
    level = min(level, _LEVELS - 1)
    keep = bits.view(np.uint8)[:count] >= level
    return torch.from_numpy(keep.view(np.uint8)).view(*shape), _LEVELS / (_LEVELS - level)


def apply_mask(x: Tensor, keep: Tensor, factor: float) -> Tensor:
    """x * keep * factor as a new tensor."""
    out = keep.to(x.dtype)
    return torch.addcmul(_ZERO, out, x, value=factor, out=out)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        keep, ctx.factor = draw_mask(x.shape, p)
        ctx.save_for_backward(keep)
        return apply_mask(x, keep, ctx.factor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return apply_mask(gradient, keep, ctx.factor), None


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, p: float) -> Tensor:
        keep, ctx.factor = draw_mask(x.shape, p)
        ctx.save_for_backward(keep)
        mask = keep.to(x.dtype)
        return torch.addcmul(residual, mask, x, value=ctx.factor, out=mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (keep,) = ctx.saved_tensors
        return gradient, apply_mask(gradient, keep, ctx.factor), None


class _Prelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.leaky_relu(x, float(slope))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, slope = ctx.saved_tensors
        grad_slope = None
        if ctx.needs_input_grad[1]:
            grad_slope = torch.dot(gradient.reshape(-1), x.clamp(max=0).reshape(-1)).view(1)
        return torch.ops.aten.leaky_relu_backward(gradient, x, float(slope), False), grad_slope
