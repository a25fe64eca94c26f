"""In which numbers the network computes."""

from __future__ import annotations

import torch


def half_precision(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass: bf16 wherever torch deems it safe, if `precision` is `bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
