"""Targets and losses of networks that judge points and cells of a grid (MSAT).

Sources: the published code of MSAT. Times are in clips; a query with several moments, which MSAT's data have not, takes
the best one at each place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.batch import Targets

EDGE_WIDTH, MIDDLE_WIDTH = 0.25, 0.21233
"""Standard deviations of the bells around the ends and the middle of a moment, as shares of its length."""
EDGE_FLOOR, MIDDLE_FLOOR, MIDDLE_PEAK = 0.1353, 0.0625, 0.78
"""Below a floor a target is 0, from a peak on 1; the peak of the ends is an option."""
NEAR = 0.4
"""A point of an end's bell so high counts as near: cells of near points learn their offsets."""
LEAST_OVERLAP = 0.5
"""Smaller overlaps count as none."""


@dataclass(frozen=True)
class Cells:
    """Cells of the grid that learn the offsets to a moment, K of them."""

    query: Tensor
    """(K,) int64."""
    start: Tensor
    end: Tensor
    offsets: Tensor
    """(K, 2), from the cell's points to the ends of the moment."""
    weight: Tensor
    """(K,): one through the number of the query's cells."""


def stage_targets(windows: Tensor, valid: Tensor, clips: int, peak: float) -> tuple[Tensor, Tensor]:
    """Say how much each point is a start, an end or the middle of a moment.

    windows: (N, M, 2) in clips; valid: (N, M). Returns (N, 3, T) of start, end and middle, and which points are near
    the two ends of each moment, (N, M, 2, T) bool.
    """
    place = torch.arange(clips + 1, device=windows.device, dtype=windows.dtype)
    centre = torch.cat((windows, windows.mean(-1, keepdim=True)), dim=-1)[..., None]
    width = windows.new_tensor([EDGE_WIDTH, EDGE_WIDTH, MIDDLE_WIDTH])[:, None]
    length = (windows[..., 1] - windows[..., 0]).clamp(min=1e-6)[..., None, None]
    distance = (place - centre).abs()
    bell = torch.exp(-0.5 * (distance / (width * length)) ** 2)
    top = windows.new_tensor([peak, peak, MIDDLE_PEAK])[:, None]
    floor = windows.new_tensor([EDGE_FLOOR, EDGE_FLOOR, MIDDLE_FLOOR])[:, None]
    target = bell.masked_fill(bell >= top, 1.0).masked_fill(bell < floor, 0.0)
    # Where a moment lies between points, the nearest one stands for it.
    enough = windows.new_tensor([NEAR, NEAR, 0.0])
    absent = target.amax(-1) <= enough
    nearest = F.one_hot(distance.argmin(-1), clips + 1).bool()
    target = target.masked_fill(nearest & absent[..., None], 1.0) * valid[..., None, None]
    return target.amax(1), target[:, :, :2] >= NEAR


def cells_near(windows: Tensor, near: Tensor) -> Cells:
    """List the cells from a point near a moment's start to one near its end, candidates or not; waits for the device.

    windows: (N, M, 2) in clips; near: (N, M, 2, T) as `stage_targets` returns it.
    """
    pairs = near[:, :, 0, :, None] & near[:, :, 1, None, :]
    query, moment, start, end = pairs.nonzero().unbind(1)
    offsets = windows[query, moment] - torch.stack((start, end), dim=-1)
    count = pairs.flatten(1).sum(1)
    return Cells(query, start, end, offsets, 1 / count[query].to(windows.dtype))


def stage_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy, each weighted by its squared error, summed over points; (N, 3, T). A mean over N and 3."""
    return _weighted_by_error(logits, target).sum(-1).mean()


def offset_loss(found: Tensor, cells: Cells, queries: int) -> Tensor:
    """Mean |difference| of offsets (K, 2) over the cells of each query, then over queries and both ends."""
    return ((found - cells.offsets).abs() * cells.weight[:, None]).sum() / (2 * queries)


def overlap_targets(moments: Tensor, windows: Tensor, valid: Tensor) -> Tensor:
    """Overlap of moments (N, C, 2) with the best of the windows (N, M, 2) of their query: (N, C), small ones 0."""
    start, end = moments[:, :, None].unbind(-1)
    other_start, other_end = windows[:, None].unbind(-1)
    inner = (torch.minimum(end, other_end) - torch.maximum(start, other_start)).clamp(min=1e-10)
    hull = (torch.maximum(end, other_end) - torch.minimum(start, other_start)).clamp(min=1e-7)
    overlap = (inner / hull).masked_fill(~valid[:, None], 0.0).amax(-1)
    return overlap.masked_fill(overlap < LEAST_OVERLAP, 0.0)


def overlap_loss(logits: Tensor, target: Tensor, used: Tensor, strict: bool) -> Tensor:
    """As `stage_loss`, over the used cells of each query, (N, C) all: a mean over these, then over queries.

    A query without a used cell adds nothing; strict: it makes the loss not a number, as published.
    """
    count = used.sum(1)
    loss = (_weighted_by_error(logits, target) * used).sum(1)
    return (loss / (count if strict else count.clamp(min=1))).mean()


def windows_in_clips(targets: Targets, clips: int) -> Tensor:
    """(N, M, 2), windows of the queries in clips."""
    return targets.windows * clips


def _weighted_by_error(logits: Tensor, target: Tensor) -> Tensor:
    error = (logits.sigmoid() - target) ** 2
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") * error
