"""The network and its losses as `torch.compile` sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mesm.model import Mesm, matched_losses

Losses = Callable[..., dict[str, Tensor]]


def forward_and_losses(model: Mesm, compiled: bool) -> tuple[Any, Losses]:
    """Return what computes the output of a batch, and the losses of an output whose spans are matched.

    Compiled, each is one graph for batches of every size (several with recurrence, whose lengths the host has to know);
    a batch has to be `prepare`d first. The matching of several windows a query, which waits for the device, stays
    outside.
    """
    if not compiled:
        return model, matched_losses
    # Sizes that happen to be equal in the first batch are no reason to compile the second one anew.
    torch.fx.experimental._config.use_duck_shape = False
    return torch.compile(model, dynamic=True), torch.compile(matched_losses, dynamic=True)
