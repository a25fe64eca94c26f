"""Sine position codes of frames and of spans."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from mesm.model.layouts import Layout


def _sine(value: Tensor, dim: int) -> Tensor:
    """Code values (...) as (..., dim): sine and cosine interleaved, wavelengths 2 pi to 10000 * 2 pi."""
    frequency = torch.arange(dim // 2, device=value.device, dtype=torch.float32)
    angle = value[..., None] / 10000 ** (2 * frequency / dim)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)


def frame_positions(layout: Layout, dim: int) -> Tensor:
    """(T, dim) codes of the packed frames: the position as a fraction of the video's length, times 2 pi.

    Source: the position code of DETR with normalisation, as MESM uses it for video (epsilon 1e-6).
    """
    fraction = layout.position / (layout.length_of_row + 1e-6)
    return _sine(fraction * (2 * math.pi), dim)


def span_positions(spans: Tensor, dim: int) -> Tensor:
    """(..., 2) spans (centre, width) in [0, 1] to (..., dim): half of the code for each, as in DAB-DETR."""
    return torch.cat([_sine(spans[..., i] * (2 * math.pi), dim // 2) for i in range(2)], dim=-1)


@lru_cache(maxsize=16)
def position_codes(count: int, period: int, dim: int) -> Tensor:
    """Codes of positions 0 to count - 1, (count, D): sine, cosine of 2 pi p / period / 10000^(2 floor(k / 2) / D)."""
    place = torch.arange(count, dtype=torch.float64)[:, None]
    scale = 10000.0 ** (2 * (torch.arange(dim) // 2).double() / dim)
    angle = 2 * math.pi * place / period / scale
    even = torch.arange(dim) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos()).float()
