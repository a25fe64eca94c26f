"""Two layers over the cells of a grid, whose first one is a sum of three parts: start, middle and end of a moment.

A grid has hundreds of times more cells than points. The fast form goes along its diagonals, where the parts of all
cells are slices of the points: nothing of the first layer's size is kept, the gradient computes it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.kernels.elementwise import apply_mask, draw_mask


class Diagonal(NamedTuple):
    """Cells (i, i + length) for i = 0, step, 2 * step, ..."""

    length: int
    step: int
    cells: int


def index_of_diagonals(diagonals: Sequence[Diagonal]) -> tuple[Tensor, Tensor]:
    """Return start and end of each cell, (C,) int64 both, one diagonal after the other."""
    starts = np.concatenate([np.arange(d.cells) * d.step for d in diagonals])
    lengths = np.repeat([d.length for d in diagonals], [d.cells for d in diagonals])
    return torch.from_numpy(starts), torch.from_numpy(starts + lengths)


def plain_diagonal_cells(
    s: Tensor,
    m: Tensor,
    e: Tensor,
    weight: Tensor,
    bias: Tensor,
    diagonals: Sequence[Diagonal],
    p: float,
    training: bool,
) -> Tensor:
    """`mesm.model.kernels.diagonal_cells` by torch."""
    start, end = (index.to(s.device) for index in index_of_diagonals(diagonals))
    hidden = s[:, start] + m[:, (start + end) // 2] + e[:, end]
    return F.linear(F.dropout(F.relu(hidden), p, training), weight, bias)


def fast_diagonal_cells(
    s: Tensor,
    m: Tensor,
    e: Tensor,
    weight: Tensor,
    bias: Tensor,
    diagonals: Sequence[Diagonal],
    p: float,
    training: bool,
) -> Tensor:
    """The same, diagonal by diagonal."""
    return _DiagonalCells.apply(s, m, e, weight, bias, tuple(diagonals), p if training else 0.0)


def _slices(diagonal: Diagonal) -> tuple[slice, slice, slice]:
    """Points of the starts, the middles and the ends of a diagonal's cells."""
    length, step, cells = diagonal
    reach = (cells - 1) * step + 1
    return tuple(slice(first, first + reach, step) for first in (0, length // 2, length))  # type: ignore[return-value]


def _hidden(s: Tensor, m: Tensor, e: Tensor, diagonal: Diagonal) -> Tensor:
    """relu of the first layer on a diagonal, (N, count, H)."""
    start, middle, end = _slices(diagonal)
    return (s[:, start] + e[:, end]).add_(m[:, middle]).relu_()


class _DiagonalCells(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        m: Tensor,
        e: Tensor,
        weight: Tensor,
        bias: Tensor,
        diagonals: tuple[Diagonal, ...],
        p: float,
    ) -> Tensor:
        out = s.new_empty(s.shape[0], sum(d.cells for d in diagonals), len(weight))
        masks: list[Tensor] = []
        ctx.diagonals, ctx.factors = diagonals, []
        first = 0
        for diagonal in diagonals:
            hidden = _hidden(s, m, e, diagonal)
            if p > 0:
                keep, factor = draw_mask(hidden.shape, p)
                hidden = apply_mask(hidden, keep, factor)
                masks.append(keep)
                ctx.factors.append(factor)
            out[:, first : first + diagonal.cells] = F.linear(hidden, weight, bias)
            first += diagonal.cells
        ctx.save_for_backward(s, m, e, weight, *masks)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        s, m, e, weight, *masks = ctx.saved_tensors
        grads = [torch.zeros_like(x) for x in (s, m, e)]
        grad_weight = torch.zeros_like(weight)
        first = 0
        for number, diagonal in enumerate(ctx.diagonals):
            above = gradient[:, first : first + diagonal.cells].flatten(0, 1)
            first += diagonal.cells
            hidden = _hidden(s, m, e, diagonal)
            inner = (above @ weight).view_as(hidden).mul_(hidden > 0)
            if masks:
                hidden = apply_mask(hidden, masks[number], ctx.factors[number])
                inner = apply_mask(inner, masks[number], ctx.factors[number])
            grad_weight.addmm_(above.T, hidden.flatten(0, 1))
            for grad, part in zip(grads, _slices(diagonal), strict=True):
                grad[:, part] += inner
        return *grads, grad_weight, gradient.sum((0, 1)), None, None
