"""What is read of a model of transformers that gives states of tokens: which layer, and how they become one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mesm.extractors.encoders.hf_folder import HfModel
from mesm.extractors.errors import EncoderError

Pool = Literal["pooler", "first", "mean"]


@dataclass(frozen=True)
class Reading:
    """Which states of a network are features."""

    dim: int
    layer: int | None
    """None: what the model gives as its last states, after its last norm if it has one; else the states after so many
    layers, 0 those that enter the first one."""
    pool: Pool
    """`pooler`: the model's own pooling layer; `first`: the first token; `mean`: the mean of all tokens."""

    @property
    def spec(self) -> dict[str, Any]:
        """What of this changes a number."""
        return {"layer": "last" if self.layer is None else self.layer, "pool": self.pool}

    def states(self, network: Any, **inputs: Any) -> torch.Tensor:
        """Return the states (B, tokens, dim) of the layer."""
        return self._of(self._run(network, inputs))

    def vectors(self, network: Any, **inputs: Any) -> torch.Tensor:
        """Return a vector of each input, (B, dim)."""
        output = self._run(network, inputs)
        if self.pool == "pooler":
            return output.pooler_output.flatten(1)
        states = self._of(output)
        if states.ndim == 4:  # (B, dim, height, width): a convolutional network's map
            states = states.flatten(2).transpose(1, 2)
        return states[:, 0] if self.pool == "first" else states.mean(1)

    def _run(self, network: Any, inputs: Mapping[str, Any]) -> Any:
        return network(**inputs, output_hidden_states=self.layer is not None)

    def _of(self, output: Any) -> torch.Tensor:
        return output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]


def reading_of(encoder: str, model: HfModel, options: Mapping[str, Any], pools: Sequence[Pool]) -> Reading:
    """Make of the options `layer` and `pool` what is read; the first of `pools` that the model has is the default.

    Raises EncoderError for a layer that the model does not have, or a way of pooling that is not known or not had.
    """
    config = model.network.config
    layer = options.get("layer")
    layers = int(getattr(config, "num_hidden_layers", 0) or len(getattr(config, "depths", ())))
    if layer is not None and not (type(layer) is int and 0 <= layer <= layers):
        raise EncoderError(f"encoder {encoder}: layer is {layer!r}; {model.folder} has layers 0 to {layers}")
    had = [pool for pool in pools if pool != "pooler" or (layer is None and _has_pooler(model))]
    pool = options.get("pool", had[0])
    if pool not in had:
        raise EncoderError(
            f"encoder {encoder}: pool is {pool!r}; expected one of {', '.join(had)}"
            + (" (the file has no weights for the pooling layer)" if model.without_pooler else "")
        )
    return Reading(_width(config), layer, pool)


def _has_pooler(model: HfModel) -> bool:
    return not model.without_pooler and getattr(model.network, "pooler", True) is not None


def _width(config: Any) -> int:
    for name in ("hidden_size", "d_model"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return int(config.hidden_sizes[-1])
