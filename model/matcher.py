"""Which predicted span answers for which window."""

from __future__ import annotations

import torch
from torch import Tensor

from mesm.model.spans import generalised_iou, spans_to_windows, windows_to_spans

Pairs = tuple[Tensor, Tensor, Tensor]
"""Of K decoder layers, three (K, P) int64 tensors: the query, the span and the window of each pair."""


@torch.no_grad()
def match(
    logits: Tensor,
    spans: Tensor,
    windows: Tensor,
    counts: tuple[int, ...],
    span_weight: float,
    giou_weight: float,
    class_weight: float,
) -> Pairs:
    """Assign each window to one predicted span, at the least total cost, for each of K decoder layers by itself.

    cost = span_weight * L1(span) - giou_weight * GIoU - class_weight * p(moment). With one window a query that is an
    argmin; otherwise the Hungarian algorithm (DETR), for all layers at once, as it waits for the device.

    logits, spans: (K, N, Q, 2); windows: (N, M, 2), of which the first `counts[n]` count. The pairs are sorted by
    query, then span.
    """
    layers, n = logits.shape[:2]
    targets = windows_to_spans(windows)
    distance = (spans[..., None, :] - targets[:, None]).abs().sum(-1)
    giou = generalised_iou(spans_to_windows(spans)[..., None, :], windows[:, None])
    moment = logits.softmax(-1)[..., :1]
    cost = span_weight * distance - giou_weight * giou - class_weight * moment
    if windows.shape[1] == 1:
        query = torch.arange(n, device=logits.device).expand(layers, n)
        return query, cost[..., 0].argmin(-1), torch.zeros_like(query)
    return _assign(cost, counts)


def _assign(cost: Tensor, counts: tuple[int, ...]) -> Pairs:
    """Solve each of the K * N assignments of cost (K, N, Q, M) on the host."""
    # Answers need no assignment, and scipy.optimize takes a third of a second to import.
    from scipy.optimize import linear_sum_assignment

    triples = [
        (query, int(span), int(window))
        for layer in cost.cpu().numpy()
        for query, count in enumerate(counts)
        for span, window in zip(*linear_sum_assignment(layer[query, :, :count]), strict=True)
    ]
    query, span, window = torch.tensor(triples, dtype=torch.int64).view(len(cost), -1, 3).unbind(-1)
    return query.to(cost.device), span.to(cost.device), window.to(cost.device)
