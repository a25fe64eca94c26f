"""A network that is not in the registry: one window, guessed from the mean word and the mean frame of its video.

Tests enter its row for a while. A process that a test starts has nobody to do so: there the row is entered as soon as
a configuration of the network, which names this module, is read.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.batch import Batch
from mesm.model.bounds import AtLeastOne, Weight
from mesm.model.losses import WHOLE, Share
from mesm.model.network import Answers, Network
from mesm.model.network_config import NetworkConfig, Sizes
from mesm.model.registry import NETWORKS, NetworkEntry

NAME = "toy"


@dataclass(frozen=True)
class ToyConfig(NetworkConfig):
    network: Literal["toy"] = "toy"
    dim: AtLeastOne = 4
    blobs: AtLeastOne = 1


@dataclass(frozen=True)
class ToyLosses:
    distance: Weight = 1.0


@dataclass
class ToyOutput:
    window: Tensor
    """(N, 2), start and end."""

    def float(self) -> ToyOutput:
        return ToyOutput(self.window.float())


class Toy(Network):
    def __init__(self, config: ToyConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.words, self.frames = nn.Linear(sizes.text_dim, config.dim), nn.Linear(sizes.video_dim, config.dim)
        self.edges = nn.Linear(config.dim, 2)

    def forward(self, batch: Batch) -> ToyOutput:
        words = (batch.words.vectors * batch.words.mask[..., None]).sum(1)
        videos = batch.video.split(list(batch.frames.lengths))
        frames = torch.stack([videos[video].mean(0) for video in batch.video_of_query])
        edges = self.edges(torch.tanh(self.words(words) + self.frames(frames)))
        return ToyOutput(torch.sigmoid(edges).sort(dim=1).values)

    def losses(
        self, output: ToyOutput, batch: Batch, weights: ToyLosses, share: Share = WHOLE, assigned: Any = None
    ) -> dict[str, Tensor]:
        assert batch.targets is not None
        distance = F.l1_loss(output.window, batch.targets.windows[:, 0])
        return {"distance": distance, "total": weights.distance * distance}

    def decode(self, output: ToyOutput, batch: Batch, rank_by: str = "class") -> Answers:
        windows = output.window.double()[:, None]
        return Answers(windows, torch.ones(windows.shape[:2]), batch.query_mask().float())


class ToyEntry(NetworkEntry):
    def network_class(self) -> type[Network]:
        return Toy

    def config_class(self) -> type[NetworkConfig]:
        return ToyConfig

    def losses_class(self) -> type[Any]:
        return ToyLosses


ENTRY = ToyEntry(NAME, "", "", "", "")

if multiprocessing.current_process().name != "MainProcess":
    NETWORKS[NAME] = ENTRY  # type: ignore[index]
