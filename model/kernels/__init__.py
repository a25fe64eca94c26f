"""The operators that layers call: one signature each, a plain form that runs everywhere, and a fast one for the CPU.

A plain form is made of torch's operators. A fast form is the same mathematics by hand, for places where torch's
operators take more time on a CPU than the matrix products between them; dropout draws other numbers there, from a
generator that torch's seed determines. `use_cpu_kernels` alone decides which form runs. An operator needs no fast form;
docs/performance.md says what each one is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from mesm.model.kernels.cells import Diagonal, fast_diagonal_cells, plain_diagonal_cells
from mesm.model.kernels.cells import index_of_diagonals as index_of_diagonals
from mesm.model.kernels.dot_product import (
    fast_attention,
    fast_packed_attention,
    plain_attention,
    plain_packed_attention,
)
from mesm.model.kernels.elementwise import (
    fast_add_dropped,
    fast_dropout,
    plain_add_dropped,
    plain_dropout,
)
from mesm.model.kernels.feed_forward_block import Weights, fast_feed_forward, plain_feed_forward
from mesm.model.layouts import Layout

_PLAIN = ContextVar("plain_kernels", default=False)


def use_cpu_kernels(*inputs: Tensor) -> bool:
    """Say whether an operator takes its fast form: float32 on a CPU, no autocast, not while compiling."""
    # First, so that the compiler meets nothing else.
    if torch.compiler.is_compiling():
        return False
    if _PLAIN.get() or torch.is_autocast_enabled("cpu"):
        return False
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in inputs)


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Let every operator take its plain form, to compare the two."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero entries with probability p and scale the others by 1 / (1 - p), when training."""
    form = fast_dropout if use_cpu_kernels(x) else plain_dropout
    return form(x, p, training)


def add_dropped(residual: Tensor, x: Tensor, p: float, training: bool) -> Tensor:
    """residual + dropout(x), of one shape."""
    form = fast_add_dropped if use_cpu_kernels(residual, x) else plain_add_dropped
    return form(residual, x, p, training)


def feed_forward(residual: Tensor, x: Tensor, weights: Weights, slope: Tensor, p: float, training: bool) -> Tensor:
    """residual + Drop(W2 Drop(PReLU(W1 x + b1)) + b2), the dropouts when training.

    residual, x: (..., D); weights: W1 (H, D), b1 (H,), W2 (D, H), b2 (D,); slope: (1,); p: probability of both
    dropouts. Returns (..., D).
    """
    form = fast_feed_forward if use_cpu_kernels(residual, x, weights[0]) else plain_feed_forward
    return form(residual, x, weights, slope, p, training)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float, training: bool) -> Tensor:
    """Scaled dot-product attention, with dropout of its weights when training.

    q: (N, H, Lq, D); k: (N, H, Lk, D); v: (N, H, Lk, Dv); mask: broadcasts to (N, H, Lq, Lk), True = visible, at least
    one key of every query; p: probability of the dropout. Returns (N, H, Lq, Dv).
    """
    form = fast_attention if use_cpu_kernels(q, k, v) else plain_attention
    return form(q, k, v, mask, p, training)


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, key_mask: Tensor | None, heads: int, p: float, training: bool
) -> Tensor:
    """Attention whose keys are hidden by padding only, with dropout of its weights when training.

    q: (T, D) packed by `layout`; k, v: (T, D) packed by it too (self-attention, key_mask None), or (N, Lk, D) with
    key_mask (N, Lk), True = visible, at least one key a sequence; p: probability of the dropout. Returns (T, D).
    """
    form = fast_packed_attention if use_cpu_kernels(q, k, v) else plain_packed_attention
    return form(q, k, v, layout, key_mask, heads, p, training)


def diagonal_cells(
    s: Tensor,
    m: Tensor,
    e: Tensor,
    weight: Tensor,
    bias: Tensor,
    diagonals: Sequence[Diagonal],
    p: float,
    training: bool,
) -> Tensor:
    """W drop(relu(s_i + m_middle + e_j)) + b of the cells (i, j) of some diagonals of a grid, dropout when training.

    s, m, e: (N, T, H), the first layer's parts at each point; weight: (O, H); bias: (O,); the middle of i and j is
    rounded down; p: probability of the dropout. Returns (N, cells, O), one diagonal after the other.
    """
    form = fast_diagonal_cells if use_cpu_kernels(s, m, e, weight) else plain_diagonal_cells
    return form(s, m, e, weight, bias, diagonals, p, training)
