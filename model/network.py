"""What every network is: a batch goes in, an output comes out; losses and answers are made of the output.

The stages know this and nothing else of a network. To add one, see docs/add-a-network.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mesm.model.batch import Batch
from mesm.model.losses import WHOLE, Share
from mesm.model.network_config import NetworkConfig, Sizes


@dataclass(frozen=True)
class Answers:
    """K windows for each of N queries, in no particular order."""

    windows: Tensor
    """(N, K, 2) float64, start and end as fractions of the duration; may reach beyond it."""
    scores: Tensor
    """(N, K), 0 to 1: how much each window looks like the moment."""
    saliency: Tensor
    """(N, L), how well each row fits the query, 0 at padding."""
    counts: Tensor | None = None
    """(N,) int64: only so many of a query's windows, the leading ones, are answers; None: all K of each."""


class Network(nn.Module, ABC):
    """A network with its losses and the reading of its answers."""

    def __init__(self, config: NetworkConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes

    @abstractmethod
    def forward(self, batch: Batch) -> Any:
        """Return the network's own output, a dataclass with a method `float` that gives the same in float32."""

    @abstractmethod
    def losses(
        self, output: Any, batch: Batch, weights: Any, share: Share = WHOLE, assigned: Any = None
    ) -> dict[str, Tensor]:
        """Compute the parts of the loss, scalars, and `total`, their weighted sum.

        weights: the network's loss configuration; share: what this process has of the batch; assigned: what `assign`
        returned, by default asked here. With `assigned` given, this is nothing but tensor operations.
        """

    @abstractmethod
    def decode(self, output: Any, batch: Batch, rank_by: str = "class") -> Answers:
        """Read the answers of an output; rank_by: one of the configuration's `rankings`."""

    def assign(self, output: Any, batch: Batch, weights: Any) -> Any:
        """Settle on the host what the losses need of it, such as which span answers for which window."""
        return None

    def prepare(self, batch: Batch) -> None:
        """Do now what `forward` needs of the host, for a compiled network, which cannot."""
        batch.prepare()

    def fit(self, frames: Iterable[Tensor], words: Iterable[Tensor]) -> None:
        """Measure what the network keeps of the training features, before the first step.

        frames: parts (rows, D_video) of all frames; words: parts (rows, D_text) of all words.
        """
        return

    def state_of_training(self) -> tuple[str, ...]:
        """Name the parameters and buffers that only training reads: a run resumes with them, its answers need none."""
        return ()

    def answering_state(self) -> dict[str, Tensor]:
        """Return the parameters and buffers that answers depend on, by name."""
        left_out = set(self.state_of_training())
        return {name: value for name, value in self.state_dict().items() if name not in left_out}

    def load_answering_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `answering_state` returned; RuntimeError unless it is of this network."""
        found = self.load_state_dict(dict(state), strict=False)
        missing = set(found.missing_keys) - set(self.state_of_training())
        if missing or found.unexpected_keys:
            raise RuntimeError(f"missing: {sorted(missing)}; unexpected: {found.unexpected_keys}")

    def after_step(self, step: int) -> None:
        """Do what follows an optimiser step, counted from 0; what changes must live in buffers, so that it resumes."""
        return
