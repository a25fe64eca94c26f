"""The network and its losses as `torch.compile` sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mesm.model import Batch, LossConfig, Mesm, Output, compute_losses
from mesm.model.layers.inputs import RecurrentLayer
from mesm.model.losses import WHOLE, Share, match_spans, matched_losses

Losses = Callable[..., dict[str, Tensor]]


def forward_and_losses(model: Mesm, compiled: bool) -> tuple[Any, Losses]:
    """Return what computes the output of a batch, and what takes the place of `compute_losses`.

    Compiled, each is one graph for batches of every size, and another one for each kind of batch (a single query, no
    negatives). Recurrent layers, for which the host has to know lengths, are left out and cut the graph; so does the
    matching of several windows a query, which waits for the device. A batch has to be `prepare`d first. A setting of
    torch is changed for the whole process.
    """
    if not compiled:
        return model, compute_losses
    for layer in model.modules():
        if isinstance(layer, RecurrentLayer):
            # Not as a decorator: that would load the compiler with the network.
            layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
    # Sizes that happen to be equal in the first batch are no reason to compile the second one anew (torch 2.5).
    shapes = torch.fx.experimental._config
    if hasattr(shapes, "use_duck_shape"):
        shapes.use_duck_shape = False
    compiled_losses = torch.compile(matched_losses, dynamic=True)

    def losses(output: Output, batch: Batch, config: LossConfig, share: Share = WHOLE) -> dict[str, Tensor]:
        return compiled_losses(output, batch, config, match_spans(output, batch, config), share)

    return torch.compile(model, dynamic=True), losses
