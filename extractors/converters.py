"""From the layouts of released weights to the names of the networks here, every tensor accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mesm.extractors.errors import WeightsError

_LISTED = 12


def load_exactly(network: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy a state into a network; every tensor must find its place and every place its tensor.

    BatchNorm's `num_batches_tracked`, which no feature depends on, may be absent. Raises WeightsError with
    the lists of what is missing, extra or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    missing = [n for n in expected if n not in given and not n.endswith("num_batches_tracked")]
    extra = [name for name in given if name not in expected]
    reshaped = [
        f"{name} {list(given[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    problems = (
        _listing("missing", missing) + _listing("extra", extra) + _listing("of another shape", reshaped)
    )
    if problems:
        raise WeightsError(f"{source} does not fit the network: {'; '.join(problems)}")
    network.load_state_dict(dict(state), strict=False)


def _listing(problem: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return [f"{len(names)} {problem}: {', '.join(names[:_LISTED])}{more}"]


_CLIP_SCALARS = ("input_resolution", "context_length", "vocab_size")


def convert_clip(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Turn OpenAI's archive, a plain state dict or a checkpoint into open_clip's names, in float32.

    OpenAI's names are open_clip's; its archive adds three numbers about the architecture, which are dropped.
    """
    state = _tensors_of(content.get("state_dict", content))
    state = _without_prefix(state, "module.")
    return {name: tensor.float() for name, tensor in state.items() if name not in _CLIP_SCALARS}


def _without_prefix(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _tensors_of(content: Any) -> dict[str, torch.Tensor]:
    """Return a state dict's tensors; raises WeightsError when it holds something else."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"the weights are a {type(content).__name__}; expected a dictionary of tensors")
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError("; ".join(_listing("without a tensor", others)))
    return dict(content)
