"""Proposals of EMB: runs of blocks of 8 rows, their features, and the map that ranks them; nothing of it is answered.

Source: EMB, `Raymond-sci/EMB` at a81e57a; the map is that of 2D-TAN (Zhang et al., AAAI 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.layers.guided import HIDDEN

BLOCK = 8
"""Rows of a block."""
LONGEST = 16
"""Blocks of the longest proposal."""
LIFTED = -1e-30
"""With which the published code fills up the last block, whose maxima are lifted to 0 by it."""


@dataclass(frozen=True)
class Proposals:
    """P runs of blocks in videos of N blocks: every (i, j) with i <= j < i + 16, i first."""

    first: Tensor
    """(P,) int64, block i of each."""
    last: Tensor
    """(P,) int64, block j of each."""
    bounds: Tensor
    """(V, P, 2) int64, first and last row of each; 0 where it is not valid."""
    mask: Tensor
    """(V, P) bool: block j holds a row of the video."""
    blocks: int

    def select(self, videos: Tensor) -> Proposals:
        """Return those of some videos, (N,) int64, repeats allowed."""
        return Proposals(
            self.first, self.last, self.bounds.index_select(0, videos), self.mask.index_select(0, videos), self.blocks
        )

    def on_map(self, values: Tensor) -> Tensor:
        """(N, P, ...) to (N, blocks * blocks, ...), zeros where there is no proposal."""
        out = values.new_zeros(values.shape[0], self.blocks * self.blocks, *values.shape[2:])
        return out.index_copy(1, self.first * self.blocks + self.last, values)


def lay_out(mask: Tensor) -> Proposals:
    """Lay out the proposals of videos, by the mask (V, L) of their rows."""
    blocks = -(-mask.shape[1] // BLOCK)
    first, last = torch.triu_indices(blocks, blocks, device=mask.device).unbind()
    near = last < first + LONGEST
    first, last = first[near], last[near]
    rows = mask.sum(1, keepdim=True)
    valid = last * BLOCK < rows
    bounds = torch.stack(
        (torch.minimum(first * BLOCK, rows - 1), torch.minimum(last * BLOCK + BLOCK - 1, rows - 1)), -1
    )
    return Proposals(first, last, bounds * valid[..., None], valid, blocks)


def pool_blocks(x: Tensor, fill: float) -> Tensor:
    """Maxima of blocks of rows: (V, L, D) to (V, blocks, D); fill: what fills up the last one."""
    short = -x.shape[1] % BLOCK
    # Of equal rows the first one gets the gradient, which matters where padding ties.
    return F.max_pool1d(F.pad(x, (0, 0, 0, short), value=fill).transpose(1, 2), BLOCK).transpose(1, 2)


def proposal_features(x: Tensor, mask: Tensor, proposals: Proposals, fill: float) -> Tensor:
    """Maxima over the blocks of each proposal, (V, L, D) to (V, P, D), 0 where it is not valid; mask: (V, L)."""
    pooled = pool_blocks(x.masked_fill(~mask[..., None], HIDDEN), fill).transpose(1, 2)
    lengths = [pooled]
    for _ in range(1, min(proposals.blocks, LONGEST)):
        lengths.append(F.max_pool1d(lengths[-1], 2, 1))
    # Runs of one length lie one after the other; of runs of length w, there are blocks - w + 1.
    ladder = torch.cat(lengths, dim=2)
    run = proposals.last - proposals.first
    place = run * proposals.blocks - run * (run - 1) // 2 + proposals.first
    found = ladder.index_select(2, place).transpose(1, 2)
    return found.masked_fill(~proposals.mask[..., None], 0.0)


def proposal_guides(x: Tensor, mask: Tensor | None, proposals: Proposals, fill: float) -> tuple[Tensor, Tensor]:
    """Maxima of the blocks in which each proposal begins and ends, (N, L, D) to two of (N, P, D).

    mask: (N, L) bool; None: what stands at padding takes part, as in the published code.
    """
    pooled = pool_blocks(x if mask is None else x.masked_fill(~mask[..., None], HIDDEN), fill)
    first, last = (
        pooled.index_select(1, place).masked_fill(~proposals.mask[..., None], 0.0)
        for place in (proposals.first, proposals.last)
    )
    return first, last


class Ranker(nn.Module):
    """One convolution over the map of starts and ends, and the probability of each proposal."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(dim, dim, 3, padding=1), nn.Linear(dim, 1)

    def forward(self, x: Tensor, proposals: Proposals) -> Tensor:
        """(N, P, D) to (N, P)."""
        size = (proposals.blocks, proposals.blocks)
        valid = proposals.on_map(proposals.mask.to(x.dtype)[..., None])
        grid = proposals.on_map(x * proposals.mask[..., None]).transpose(1, 2).unflatten(2, size)
        around = F.avg_pool2d(valid.transpose(1, 2).unflatten(2, size), 3, 1, padding=1) * 9
        found = F.relu(self.convolution(grid)) / around.clamp(min=1.0)
        place = proposals.first * proposals.blocks + proposals.last
        chosen = found.flatten(2).index_select(2, place).transpose(1, 2)
        return self.head(chosen).squeeze(-1).sigmoid()
