"""Masks of attention layers between sequences, True = visible."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def misaligned_mask(query_padding: Tensor, key_padding: Tensor, heads: int) -> Tensor:
    """(N, heads, Lq, Lk) bool, True = visible: the published code's attention mask.

    Keys at padding are hidden from queries at padding, but laid out batch-major where attention reads head-major: slot
    b * heads + h carries the mask of sample (b * heads + h) mod N.
    """
    n = query_padding.shape[0]
    hidden = query_padding[:, :, None] & key_padding[:, None, :]
    slots = torch.arange(n * heads, device=hidden.device) % n
    return ~hidden[slots].view(n, heads, *hidden.shape[1:])


def cross_mask(query_mask: Tensor, key_mask: Tensor, n: int, heads: int, misaligned: bool) -> Tensor:
    """Mask of a cross layer: (N, Lk), or (N, heads, Lq, Lk) with the published defect (`misaligned`).

    query_mask: (N, Lq) and key_mask: (N, Lk), the valid positions. The published code calls the layer for `n` samples
    at a time, each call with the defect of its own.
    """
    if not misaligned:
        return key_mask
    visible = key_mask[:, None, None, :]
    calls = zip(query_mask.split(n), key_mask.split(n), strict=True)
    return visible & torch.cat([misaligned_mask(~q, ~k, heads) for q, k in calls])


def misaligned_slot_mask(groups: Sequence[int], padding: Tensor, heads: int) -> Tensor:
    """(N, heads, L): the row of `misaligned_mask` that belongs to each query's own place among its group.

    groups: the group of each of N queries; padding: (N, L), True at padding.
    """
    place = [groups[:i].count(group) for i, group in enumerate(groups)]
    size = [groups.count(group) for group in groups]
    slots = torch.arange(max(size))
    slot_padding = (slots >= torch.tensor(size)[:, None]).to(padding.device)
    full = misaligned_mask(slot_padding, padding, heads)
    return full[torch.arange(len(groups)), :, torch.tensor(place)]
