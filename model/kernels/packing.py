"""Rows between packed and padded form, with gradients that need no atomic additions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Pad(torch.autograd.Function):
    """Scatter packed rows to their padded places; the gradient gathers them back (places are distinct)."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(index)
        return packed.new_zeros(rows, packed.shape[1]).index_copy_(0, index, packed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return gradient.index_select(0, index), None, None


class _Prepend(torch.autograd.Function):
    """Put one row in front of each sequence."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, packed: Tensor, first: Tensor, others: Tensor) -> Tensor:
        ctx.save_for_backward(first, others)
        out = packed.new_empty(len(first) + len(others), packed.shape[1])
        out.index_copy_(0, others, packed)
        out[first] = row.to(packed.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        first, others = ctx.saved_tensors
        return gradient.index_select(0, first).sum(0), gradient.index_select(0, others), None, None


def prepend(row: Tensor, packed: Tensor, first: Tensor, others: Tensor) -> Tensor:
    """(D,) and packed (T, D) to (N + T, D), by the rows that `Layout.with_prefix` returns."""
    return _Prepend.apply(row, packed, first, others)


class _Pack(torch.autograd.Function):
    """Gather the valid rows; the gradient scatters them, without the atomic additions of a general gather."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = padded.shape[0]
        return padded.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.rows, gradient.shape[1]).index_copy_(0, index, gradient), None
