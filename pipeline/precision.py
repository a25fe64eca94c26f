"""In which numbers the network computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

HALF, PRODUCTS = "bf16", "bf16-products"


@contextmanager
def product_precision(precision: str) -> Iterator[None]:
    """Let products of float32 matrices round their factors to bf16 and add up in float32, if `bf16-products` says so.

    Everything else stays in float32. It is torch's `float32_matmul_precision` "medium": bf16 or TF32 on GPUs, bf16 on
    processors with AMX; elsewhere it changes nothing. What is set before is set again afterwards.
    """
    before = torch.get_float32_matmul_precision()
    if precision == PRODUCTS:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def half_precision(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass: bf16 wherever torch deems it safe, if `bf16` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == HALF)
