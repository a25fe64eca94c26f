"""Candidate moments as cells of a grid: cell (i, j) is the moment from point i to point j (2D-TAN and MSAT)."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.kernels import Diagonal, diagonal_cells, dropout, index_of_diagonals

DENSE = 16
"""Up to so many clips, moments of every length from every point are candidates."""


@lru_cache(maxsize=16)
def candidate_diagonals(clips: int) -> tuple[Diagonal, ...]:
    """Return the diagonals of the grid that hold candidates: all cells of moments of at most 16 clips, and of longer
    ones, the longer the fewer: of lengths over 16 * 2^(k-1) up to 16 * 2^k, every 2^k-th from every 2^k-th point.

    The published grids: 428 cells with 32 clips, 2548 with 128.
    """
    found = []
    for length in range(1, clips + 1):
        step = 1
        while length > DENSE * step:
            step *= 2
        if length % step == 0:
            found.append(Diagonal(length, step, (clips - length) // step + 1))
    return tuple(found)


class GridHead(nn.Module):
    """What is said of cells: from the start, the middle and the end of a moment to three numbers.

    Its first layer is three projections of points that are added cell by cell, instead of one of 3 D numbers a cell.
    """

    starts: Tensor
    ends: Tensor

    def __init__(self, dim: int, hidden: int, clips: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.diagonals = dropout, candidate_diagonals(clips)
        self.first = nn.Linear(3 * dim, hidden)
        self.second = nn.Linear(hidden, 3)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        starts, ends = index_of_diagonals(self.diagonals)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("ends", ends, persistent=False)

    def project(self, start: Tensor, middle: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project the three parts of all points, (N, T, D) each, to (N, T, hidden)."""
        parts = zip((start, middle, end), self.first.weight.chunk(3, dim=1), strict=True)
        projected = [x @ weight.T for x, weight in parts]
        return projected[0], projected[1] + self.first.bias, projected[2]

    def candidates(self, points: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Judge the candidate cells from projected points: (N, C, 3)."""
        weight, bias = self.second.weight, self.second.bias
        return diagonal_cells(*points, weight, bias, self.diagonals, self.dropout, self.training)

    def cells(self, points: tuple[Tensor, Tensor, Tensor], query: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Judge any cells, each of a query, from a start to an end, all (K,): (K, 3)."""
        first = query * points[0].shape[1]
        places = (start, (start + end) // 2, end)
        # An embedding's gradient adds up rows that are read several times much faster than that of index_select.
        rows = [F.embedding(first + at, part.flatten(0, 1)) for part, at in zip(points, places, strict=True)]
        return self.second(dropout(F.relu(rows[0] + rows[1] + rows[2]), self.dropout, self.training))


def moments_of_cells(offsets: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Cells (C,) and the offsets of their two ends (N, C, 2) to moments (N, C, 2), in clips."""
    return offsets + torch.stack((start, end), dim=-1).to(offsets.dtype)
