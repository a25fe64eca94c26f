"""Losses with elastic boundaries, and the answers of networks that give each row a chance to be a boundary.

Source: EMB (Huang et al., ECCV 2022), `Raymond-sci/EMB` at a81e57a. Rows are counted from 0, the last one of a moment
belongs to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.layers.guided import HIDDEN

WIDENED = 0.1
"""Share of the highlighted rows that are added on both sides."""
LOG_FLOOR = -100.0
"""Least logarithm of the binary cross-entropy (torch's own)."""
EASY, HARD = 0.3, 0.7
"""Overlaps at which a proposal is worth 0 and 1."""
THINNED_OUT = 0.5
"""IoU with a better answer above which a pair of rows is none."""


def rows_of_windows(windows: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Return the first and the last row whose time overlaps a window most, (N, 2) int64.

    windows: (N, 2) start and end as fractions of the video; lengths: (N,) its rows; width: most rows. Overlap over the
    hull; of equal pairs the one that starts, and then ends, first. A window of no length gets (0, 0).
    """
    place = torch.arange(width, device=windows.device)
    share = lengths[:, None].double()
    start, end = place / share, (place + 1) / share
    window = windows.double()[:, :, None, None]
    inner = torch.minimum(end[:, None], window[:, 1]) - torch.maximum(start[..., None], window[:, 0])
    hull = torch.maximum(end[:, None], window[:, 1]) - torch.minimum(start[..., None], window[:, 0])
    # In single precision, as published: pairs that are equal on paper are equal here.
    overlap = (inner.clamp(min=0) / hull).float()
    valid = place < lengths[:, None]
    pairs = valid[:, None] & valid[..., None] & (place[:, None] <= place)
    best = overlap.masked_fill(~pairs, -1.0).flatten(1).argmax(1)
    return torch.stack((best // width, best % width), dim=-1)


def threshold_of(progress: Tensor | None, device: torch.device) -> Tensor:
    """Overlap that a pseudo moment needs, () float64: near 1 in the first epochs, near 0.5 in the last ones."""
    done = torch.ones((), dtype=torch.float64, device=device) if progress is None else progress
    return 0.5 + 0.5 * (1 - torch.sigmoid((done - 0.5) / 0.05))


def row_overlap(bounds: Tensor, rows: Tensor) -> Tensor:
    """Overlap over the hull of pairs of rows (..., 2) and (..., 2), the last ones included."""
    first, last, start, end = bounds[..., 0], bounds[..., 1] + 1, rows[..., 0], rows[..., 1] + 1
    inner = (torch.minimum(last, end) - torch.maximum(first, start)).clamp(min=0)
    return inner / (torch.maximum(last, end) - torch.minimum(first, start))


def pseudo_rows(rows: Tensor, bounds: Tensor, scores: Tensor, mask: Tensor, threshold: Tensor) -> Tensor:
    """Rows of the best-scored proposal that overlaps the moment enough, (N, 2); the moment's own where none does.

    rows: (N, 2) of the moment; bounds, scores, mask: (N, P, 2), (N, P), (N, P) of the proposals.
    """
    near = mask & (row_overlap(bounds, rows[:, None]) >= threshold)
    best = scores.detach().masked_fill(~near, -1.0).argmax(1)
    chosen = bounds.gather(1, best[:, None, None].expand(-1, 1, 2)).squeeze(1)
    return torch.where(near.any(1, keepdim=True), chosen, rows)


def location_loss(log_start: Tensor, log_end: Tensor, rows: Tensor, pseudo: Tensor, official: bool) -> Tensor:
    """Log-probability that each boundary lies between those of the moment and of its pseudo moment; mean over N.

    log_start, log_end: (N, L) log-probabilities. official: the end's candidates reach one row further, and
    probabilities are added before the logarithm, which is infinite when they underflow.
    """
    place = torch.arange(log_start.shape[1], device=rows.device)
    total = log_start.new_zeros(())
    for side, log_chance in enumerate((log_start, log_end)):
        own, other = rows[:, side, None], pseudo[:, side, None] + (side if official else 0)
        between = (place >= torch.minimum(own, other)) & (place <= torch.maximum(own, other))
        if official:
            chance = (log_chance.exp() * between).sum(1).log()
        else:
            chance = log_chance.masked_fill(~between, HIDDEN).logsumexp(1)
        total = total - chance.mean()
    return total


def highlighted(rows: Tensor, pseudo: Tensor, mask: Tensor, official: bool) -> Tensor:
    """Mark the rows of moment and pseudo moment, a tenth more on both sides: (N, L) bool, as `mask`.

    official: the published code ends where the earlier one ends, the pseudo moment one row later; the paper where the
    later one ends (equation 16).
    """
    first = torch.minimum(rows[:, 0], pseudo[:, 0])
    if official:
        last = torch.minimum(rows[:, 1], pseudo[:, 1] + 1)
    else:
        last = torch.maximum(rows[:, 1], pseudo[:, 1])
    # In double precision halves are halves, as in Python.
    more = (WIDENED * (last - first + 1).double()).round().long()
    place = torch.arange(mask.shape[1], device=mask.device)
    return (place >= (first - more)[:, None]) & (place <= (last + more)[:, None]) & mask


def highlight_sum(highlight: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of rows, those of the moment count twice, summed over valid ones; tensors (N, L)."""
    chance = highlight.log().clamp(min=LOG_FLOOR)
    other = torch.log1p(-highlight).clamp(min=LOG_FLOOR)
    return -(torch.where(label, 2 * chance, other) * mask).sum()


def ranking_sum(scores: Tensor, bounds: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of proposals against their overlap with the moment, summed over valid ones."""
    worth = ((row_overlap(bounds, rows[:, None]) - EASY) / (HARD - EASY)).clamp(0, 1)
    loss = F.binary_cross_entropy(scores.float(), worth, reduction="none")
    return (loss * mask).sum()


def best_pairs(log_start: Tensor, log_end: Tensor, mask: Tensor, count: int, official: bool) -> tuple[Tensor, Tensor]:
    """Return the pairs of rows that are likeliest start and end, best first: (N, count, 2) int64, (N, count) float64.

    log_start, log_end: (N, L) log-probabilities; mask: (N, L) bool. A pair that overlaps a better one that is kept by
    more than half is dropped; where fewer are left, the last one stands repeatedly. Of equal ones the first counts.
    official: products of probabilities in single precision, all 0 when they underflow.
    """
    width = mask.shape[1]
    place = torch.arange(width, device=mask.device)
    allowed = (place[:, None] <= place) & mask[:, None] & mask[..., None]
    if official:
        scores = log_start.exp()[..., None] * log_end.exp()[:, None]
        open_ = torch.where(allowed, scores, -1.0).flatten(1)
    else:
        open_ = (log_start[..., None] + log_end[:, None]).masked_fill(~allowed, -torch.inf).flatten(1)
    closed = -1.0 if official else -torch.inf
    pairs = torch.stack(torch.meshgrid(place, place, indexing="ij"), dim=-1).flatten(0, 1)
    chosen, values = list[Tensor](), list[Tensor]()
    for number in range(count):
        value, best = open_.max(1)
        # On a CPU as on a GPU, the first of equal ones.
        best = (open_ == value[:, None]).int().argmax(1)
        found = pairs[best]
        if number:
            used_up = value <= closed if official else torch.isneginf(value)
            found = torch.where(used_up[:, None], chosen[-1], found)
            value = torch.where(used_up, values[-1], value)
        chosen.append(found)
        values.append(value)
        if number + 1 < count:
            open_ = open_.masked_fill(row_overlap(pairs, found[:, None]) > THINNED_OUT, closed)
    found_values = torch.stack(values, dim=1).double()
    return torch.stack(chosen, dim=1), found_values if official else found_values.exp()
