"""The four published settings in small: the switches that set them apart, with narrow features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mesm.model.batch import Batch
from mesm.model.network_config import Sizes
from mesm.model.networks.mesm import Mesm, MesmConfig, MesmLosses
from mesm.tools.synthetic_batches import BatchShape, configs_of, make_batch

SMALL = {"dim": 64, "feed_forward_dim": 96, "heads": 4}


@dataclass(frozen=True)
class Setting:
    shape: BatchShape
    model: MesmConfig
    sizes: Sizes
    loss: MesmLosses

    def network(self, seed: int = 0, **switches: object) -> Mesm:
        """Build the network, every parameter away from the special values that it is initialised with."""
        torch.manual_seed(seed)
        model = Mesm(replace(self.model, **switches), self.sizes)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model

    def batch(self, seed: int = 0) -> Batch:
        return make_batch(self.shape, seed)


def _small(name: str, text_dim: int, levels: int = 1, windows: int = 1, own_clips: bool = False) -> Setting:
    groups = (0, 0, 0, 1, 1, 2)
    rows, videos = ((9, 14, 6), groups) if not own_clips else ((12, 12, 9, 12, 7, 12), tuple(range(6)))
    shape = BatchShape(30, text_dim, 23, rows, videos, groups, words=8, windows=windows, levels=levels)
    model, _, loss = configs_of(name)
    assert isinstance(model, MesmConfig)
    return Setting(shape, replace(model, **SMALL), Sizes(30, text_dim, 23), loss)


SETTINGS = {
    "charades-clip-slowfast": _small("charades-clip-slowfast", 24),
    "charades-vgg-glove": _small("charades-vgg-glove", 18),
    "tacos-c3d-glove": _small("tacos-c3d-glove", 18),
    "qvhighlights-clip-slowfast": _small("qvhighlights-clip-slowfast", 24, levels=12, windows=3, own_clips=True),
}
