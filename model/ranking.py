"""By which score the predicted spans of a query are put in order."""

from __future__ import annotations

import torch
from torch import Tensor

from mesm.model.spans import spans_to_windows


def moment_probability(logits: Tensor) -> Tensor:
    """(N, Q, 2) to (N, Q): how much each span looks like the moment, 0 to 1, as the class head says."""
    return logits.softmax(-1)[..., 0]


def overlap_with_frames(spans: Tensor, frame_logits: Tensor, mask: Tensor) -> Tensor:
    """(N, Q): the overlap of spans with the frames that a frame classifier takes for the moment's; one moment a query.

    spans: (N, Q, 2) centre and width; frame_logits, mask: (N, L), the latter True at valid frames. The class head has
    to judge a whole span at once; the classifier learns from every frame.
    """
    inside = frame_logits.sigmoid().masked_fill(~mask, 0.0)
    return soft_iou(spans_to_windows(spans), inside, mask.sum(1))


def soft_iou(windows: Tensor, inside: Tensor, lengths: Tensor) -> Tensor:
    """(N, Q): expected intersection over expected union of windows with a set of frames known by probabilities.

    windows: (N, Q, 2) start and end as fractions of the duration; inside: (N, L) probability of each frame being in the
    set, 0 at padding; lengths: (N,) frames. A frame that a window cuts counts by the share that is covered.
    """
    total = torch.nn.functional.pad(inside.cumsum(1), (1, 0))
    place = windows.clamp(0, 1) * lengths[:, None, None]
    frame = torch.minimum(place.long(), lengths[:, None, None] - 1)
    before, at = (x.gather(1, frame.flatten(1)).view_as(frame) for x in (total[:, :-1], inside))
    covered = before + (place - frame) * at
    intersection = covered[..., 1] - covered[..., 0]
    union = place[..., 1] - place[..., 0] + total[:, -1:] - intersection
    return intersection / union.clamp(min=1e-6)


def best_apart(
    windows: Tensor, scores: Tensor, possible: Tensor, most_overlap: float, count: int
) -> tuple[Tensor, Tensor]:
    """Choose the best windows of each query that overlap none of the better ones chosen by more than an IoU.

    Greedy non-maximum suppression that ends when enough are chosen, for all queries at once.

    windows: (N, C, 2), ends after starts where possible; scores: (N, C); possible: (N, C) bool. Returns (N, count)
    int64 the chosen ones, best first, and (N,) int64 how many of them are; places behind these say nothing.
    """
    count = min(count, windows.shape[1])
    left = scores.masked_fill(~possible, -torch.inf)
    start, end = windows.unbind(-1)
    length = end - start
    chosen, found = [], []
    for _ in range(count):
        score, best = left.max(1)
        found.append(score > -torch.inf)
        chosen.append(best)
        own_start, own_end, own_length = (x.gather(1, best[:, None]) for x in (start, end, length))
        inner = (torch.minimum(end, own_end) - torch.maximum(start, own_start)).clamp(min=0)
        taken = inner > most_overlap * (length + own_length - inner)
        left = left.masked_fill(taken, -torch.inf).scatter(1, best[:, None], -torch.inf)
    return torch.stack(chosen, dim=1), torch.stack(found, dim=1).sum(1)
