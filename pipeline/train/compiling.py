"""A network and its losses as `torch.compile` sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mesm.model.batch import Batch
from mesm.model.layers.inputs import RecurrentLayer
from mesm.model.losses import WHOLE, Share
from mesm.model.network import Network

Losses = Callable[..., dict[str, Tensor]]


def forward_and_losses(network: Network, compiled: bool) -> tuple[Any, Losses]:
    """Return what computes the output of a batch, and what takes the place of `network.losses`.

    Compiled, each is one graph for batches of every size, and another one for each kind of batch (a single query, no
    negatives). Recurrent layers, for which the host has to know lengths, are left out and cut the graph; so does what
    the host has to settle for the losses (`Network.assign`). A batch has to be `prepare`d first. A setting of torch is
    changed for the whole process.
    """
    if not compiled:
        return network, network.losses
    for layer in network.modules():
        if isinstance(layer, RecurrentLayer):
            # Not as a decorator: that would load the compiler with the network.
            layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
    # Sizes that happen to be equal in the first batch are no reason to compile the second one anew (torch 2.5).
    shapes = torch.fx.experimental._config
    if hasattr(shapes, "use_duck_shape"):
        shapes.use_duck_shape = False
    compiled_losses = torch.compile(network.losses, dynamic=True)

    def losses(output: Any, batch: Batch, weights: Any, share: Share = WHOLE) -> dict[str, Tensor]:
        return compiled_losses(output, batch, weights, share, network.assign(output, batch, weights))

    return torch.compile(network, dynamic=True), losses
