"""Operations on spans (centre, width) and windows (start, end), as fractions of the video's duration."""

from __future__ import annotations

import torch
from torch import Tensor


def spans_to_windows(spans: Tensor) -> Tensor:
    """(..., 2) centre and width to (..., 2) start and end."""
    centre, width = spans.unbind(-1)
    return torch.stack((centre - 0.5 * width, centre + 0.5 * width), dim=-1)


def windows_to_spans(windows: Tensor) -> Tensor:
    """(..., 2) start and end to (..., 2) centre and width."""
    start, end = windows.unbind(-1)
    return torch.stack((0.5 * (start + end), end - start), dim=-1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Temporal generalised intersection over union of windows (..., 2), broadcast; in (-1, 1].

    IoU minus the share of the hull that neither window covers (Rezatofighi et al., 2019, in one dimension).
    """
    intersection = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - intersection
    hull = torch.maximum(a[..., 1], b[..., 1]) - torch.minimum(a[..., 0], b[..., 0])
    return intersection / union - (hull - union) / hull


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Logit of x in [0, 1], kept finite by clamping x and 1 - x at `eps`."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def exact_windows(spans: Tensor) -> Tensor:
    """(..., 2) centre and width to (..., 2) float64 start and end.

    In float32, published figures that lie on an edge of rounding would move.
    """
    centre, half = spans[..., 0].double(), spans[..., 1].double() / 2
    return torch.stack((centre - half, centre + half), dim=-1)
