"""Windows as pairs of a first and a last row, all of a video at once: (N, L, L), first row by last row, both in it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CANDIDATES = 256
"""Windows of each query, the most probable ones, among which answers are sought: all of them up to 22 rows."""
QUERIES_AT_ONCE = 32
"""Queries whose candidates are compared with each other at once: 8 MiB of overlaps."""
REACHED = (0.5, 0.7)
"""Overlaps that an answer should reach, see `best_windows`."""


def pair_mask(mask: Tensor) -> Tensor:
    """(N, L, L): the pairs of valid rows (N, L) whose first one does not lie behind the last one."""
    return (mask[:, :, None] & mask[:, None, :]).triu()


def overlaps_of_pairs(windows: Tensor, mask: Tensor) -> Tensor:
    """(N, M, L, L) IoU of every pair with windows (N, M, 2), fractions of the duration, which the rows share evenly."""
    start, end = (windows * mask.sum(1)[:, None, None])[..., None, None].unbind(2)
    place = torch.arange(mask.shape[1], device=mask.device, dtype=windows.dtype)
    return _iou(place[:, None], place + 1, start, end)


def inside_probability(probability: Tensor) -> Tensor:
    """(N, L): the probability that each row is in the moment, from that of every pair (N, L, L)."""
    begun = probability.sum(2).cumsum(1)
    ended = F.pad(probability.sum(1).cumsum(1), (1, 0))[:, :-1]
    return (begun - ended).clamp(min=0)


@torch.no_grad()
def best_windows(probability: Tensor, mask: Tensor, count: int, separation: float) -> tuple[Tensor, Tensor]:
    """Choose the `count` windows of each query that are worth most, (N, count, 2) float64 fractions, and (N, count).

    What a window is worth: the mean of its expected IoU with the moment and of the probabilities that this reaches each
    of REACHED. The most probable window is seldom it: probability is spread over many windows that nearly agree. A
    window of an IoU above `separation` with a better one is left out; where too few are left, the worst stands
    repeatedly.
    """
    parts = [
        _best_of_part(p, m, count, separation)
        for p, m in zip(probability.split(QUERIES_AT_ONCE), mask.split(QUERIES_AT_ONCE), strict=True)
    ]
    windows, scores = (torch.cat(x) for x in zip(*parts, strict=True))
    return windows, scores


def _best_of_part(probability: Tensor, mask: Tensor, count: int, separation: float) -> tuple[Tensor, Tensor]:
    rows = mask.shape[1]
    likely, pair = probability.flatten(1).topk(min(CANDIDATES, rows * rows), dim=1)
    first, last = pair // rows, pair % rows + 1
    overlap = _iou(first[:, :, None], last[:, :, None], first[:, None], last[:, None])
    worth = overlap + sum((overlap >= least).to(overlap.dtype) for least in REACHED)
    worth = (worth @ likely[..., None]).squeeze(-1) / (1 + len(REACHED))
    # Pairs that are none have no probability, but could overlap with those that are.
    left = worth.masked_fill(~pair_mask(mask).flatten(1).gather(1, pair), -1.0)
    query = torch.arange(len(left), device=left.device)
    chosen = [left.argmax(1)]
    for _ in range(count - 1):
        left = left.masked_fill((overlap[query, chosen[-1]] > separation), -1.0)
        best = left.argmax(1)
        chosen.append(torch.where(left[query, best] < 0, chosen[-1], best))
    taken = torch.stack(chosen, dim=1)
    windows = torch.stack((first.gather(1, taken), last.gather(1, taken)), dim=-1).double()
    return windows / mask.sum(1)[:, None, None], worth.gather(1, taken).clamp(0, 1)


def _iou(start: Tensor, end: Tensor, other_start: Tensor, other_end: Tensor) -> Tensor:
    shared = (torch.minimum(end, other_end) - torch.maximum(start, other_start)).clamp(min=0)
    union = (end - start) + (other_end - other_start) - shared
    # Pairs that are none, the last row before the first, can make it 0.
    return shared / union.clamp(min=1e-6)
