"""Which predicted span answers for which window."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mesm.model.spans import generalised_iou, spans_to_windows, windows_to_spans


@torch.no_grad()
def match(
    logits: Tensor, spans: Tensor, windows: Tensor, counts: tuple[int, ...], span_weight: float, giou_weight: float,
    class_weight: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Assign each window to one predicted span, at the least total cost.

    cost = span_weight * L1(span) - giou_weight * GIoU - class_weight * p(moment). With one window a query that is an
    argmin; otherwise the Hungarian algorithm (DETR).

    logits, spans: (N, Q, 2); windows: (N, M, 2), of which the first `counts[n]` count. Returns three (P,) int64
    tensors: the query, the span and the window of each pair, sorted by query, then span.
    """
    n = len(logits)
    targets = windows_to_spans(windows)
    distance = (spans[:, :, None] - targets[:, None]).abs().sum(-1)
    giou = generalised_iou(spans_to_windows(spans)[:, :, None], windows[:, None])
    moment = logits.softmax(-1)[..., :1]
    cost = span_weight * distance - giou_weight * giou - class_weight * moment
    device = logits.device
    if max(counts) == 1 and min(counts) == 1:
        return torch.arange(n, device=device), cost[:, :, 0].argmin(1), torch.zeros(n, dtype=torch.int64, device=device)
    host = cost.cpu().numpy()
    triples = [
        (i, int(span), int(window))
        for i, count in enumerate(counts)
        for span, window in zip(*linear_sum_assignment(host[i, :, :count]), strict=True)
    ]
    query, span, window = torch.tensor(triples, dtype=torch.int64).view(-1, 3).T.to(device)
    return query, span, window
