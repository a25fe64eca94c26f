"""Dropout, PReLU and attention, with forms for the CPU where torch's own spend more time than the matrix products.

torch draws one random number at a time for dropout on a CPU, and its gradient of a scalar PReLU slope does not
vectorise. On other devices torch's own operators are used. The results are the same mathematics; dropout draws other
numbers, from a generator that torch's seed determines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 2**16


def _keep_mask(shape: torch.Size, p: float) -> Tensor:
    """Draw a bool mask that is False with probability p, to 1/65536, on the CPU."""
    seed = int(torch.randint(2**62, ()))
    bits = np.random.Generator(np.random.SFC64(seed)).bytes(2 * shape.numel())
    draws = torch.frombuffer(bytearray(bits), dtype=torch.int16) if shape.numel() else torch.empty(0, dtype=torch.int16)
    return (draws >= round(p * _LEVELS) - _LEVELS // 2).view(shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = _keep_mask(x.shape, p).to(x.dtype).mul_(1 / (1 - p))
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradient * mask, None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero entries with probability p and scale the others by 1 / (1 - p), when training."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    return _Dropout.apply(x, p)


class _Prelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.leaky_relu(x, float(slope))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        negative = torch.dot(gradient.reshape(-1), x.clamp(max=0).reshape(-1)).view(1)
        return torch.ops.aten.leaky_relu_backward(gradient, x, float(slope), False), negative


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """PReLU with one learnable slope (1,)."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return F.prelu(x, slope)
    return _Prelu.apply(x, slope)


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
