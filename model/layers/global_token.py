"""A learnable token in front of a video's frames, and how well each frame agrees with it (QD-DETR)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.batch import Plan
from mesm.model.layers.encoder import EncoderLayer
from mesm.model.layouts import Layout, prepend


def encode_with_global(
    layers: Iterable[EncoderLayer],
    token: Tensor,
    token_position: Tensor,
    x: Tensor,
    positions: Tensor,
    plan: Plan,
    hide_token: bool = False,
) -> tuple[Tensor, Tensor]:
    """Encode the packed frames of P pairs with the token in front of each pair's.

    token, token_position: (D,); x, positions: (T, D); hide_token: no position sees the token, a defect of MESM's
    published code. Returns the encoded tokens (P, D) and frames (T, D).
    """
    extended, first, others = plan.extended, plan.first, plan.others
    x = prepend(token, x, first, others)
    positions = prepend(token_position, positions, first, others)
    mask = None
    if hide_token:
        mask = torch.cat((torch.zeros_like(extended.mask[:, :1]), extended.mask[:, 1:]), dim=1)[:, None, None]
    for layer in layers:
        x = layer(x, positions, extended, mask)
    return x.index_select(0, first), x.index_select(0, others)


def agreement(frame: nn.Linear, token: nn.Linear, tokens: Tensor, frames: Tensor, layout: Layout) -> Tensor:
    """(T, 1): (W1 m_i + b1) . (W2 g + b2) / sqrt(D), with W1 moved to the token's side.

    frame: W1, b1; token: W2, b2; tokens: (P, D); frames: (T, D), packed by `layout`. Every frame meets every pair's
    token, which is a small product, and takes its own pair's: no copy of a token a frame.
    """
    u = token(tokens)
    scores = F.linear(frames, u @ frame.weight, u @ frame.bias)
    return scores.gather(1, layout.sequence_of_row[:, None]) / frames.shape[-1] ** 0.5
