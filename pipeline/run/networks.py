"""Networks judged before they are built: how large they are, and what a file must hold to fill them."""

from __future__ import annotations

import math

import torch

from mesm.model.network_config import NetworkConfig, Sizes
from mesm.model.registry import build_network
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.memory import free_memory

_BYTES_A_NUMBER = 4


def network_shapes(config: NetworkConfig, sizes: Sizes, answering: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter and buffer of a network, by name, without taking memory for them.

    answering: only of those that answers depend on.
    Raises PipelineError for a network that cannot be built, or that the memory does not hold.
    """
    try:
        with torch.device("meta"):
            network = build_network(config, sizes)
            state = network.answering_state() if answering else network.state_dict()
    except (RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise PipelineError(f"a network {config.name} of these sizes cannot be built: {reason}") from error
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    needed, free = _BYTES_A_NUMBER * sum(map(math.prod, shapes.values())), free_memory()
    if needed > free:
        raise PipelineError(
            f"a network {config.name} of these sizes needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of memory "
            "are free; choose smaller ones (model.dim, model.feed_forward_dim, features.text.vocabulary_size)"
        )
    return shapes
