"""Every network that learns, in small, with a batch to train on; new rows are tested without a line more.

As a program it writes golden/losses.json anew: only when the complete golden files of the published codes hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.model.batch import Batch, Words
from mesm.model.layouts import Layout
from mesm.model.network import Network
from mesm.model.network_config import Draw, NetworkConfig, Sizes
from mesm.model.registry import NETWORKS, build_network, networks_that_learn
from mesm.tools.parity_mesm import formula_weight
from mesm.tools.synthetic_batches import BatchShape, make_batch

SIZES = Sizes(30, 24, 23)
SMALL = {"dim": 64, "heads": 4, "feed_forward_dim": 96, "clips": 16}
GROUPS = (0, 0, 0, 1, 1, 2)


@dataclass(frozen=True)
class Subject:
    """One network in small."""

    name: str

    @property
    def config(self) -> NetworkConfig:
        config = NETWORKS[self.name].config_class()()
        known = {f.name for f in fields(config)}
        return replace(config, **{name: value for name, value in SMALL.items() if name in known})

    @property
    def losses(self) -> Any:
        return NETWORKS[self.name].losses_class()()

    def build(self, seed: int = 0, **switches: object) -> Network:
        """Build the network, every parameter away from the special values that it is initialised with."""
        torch.manual_seed(seed)
        network = build_network(replace(self.config, **switches), SIZES)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return network

    def without_dropout(self) -> Network:
        known = {f.name for f in fields(self.config)}
        return self.build(**{name: 0.0 for name in ("dropout", "input_dropout") if name in known})

    def batch(self, seed: int = 0, windows: int = 1) -> Batch:
        """A batch with what training draws for this network."""
        shape = BatchShape(30, 24, 23, (9, 14, 6), GROUPS, GROUPS, words=8, windows=windows)
        batch, draws = make_batch(shape, seed), self.config.draws()
        if not draws & (Draw.OTHER_QUERY | Draw.NEXT_QUERY):
            batch = replace(batch, negative_query=None)
        if self.config.reads_narration():
            draw = torch.Generator().manual_seed(seed)
            batch = replace(batch, narration=torch.randn(len(batch.video), 24, generator=draw))
        hidden = Draw.MASKED_WORDS | Draw.MASKED_WORDS_ALIKE
        return batch if draws & hidden else replace(batch, word_mask=None)


SUBJECTS = [Subject(name) for name in networks_that_learn()]


def at_inference(batch: Batch) -> Batch:
    return replace(batch, negative_query=None, word_mask=None, targets=None)


def alone(batch: Batch, query: int) -> Batch:
    """The batch of one query: its own video and its own words."""
    video = batch.video_of_query[query]
    start, length = sum(batch.frames.lengths[:video]), batch.frames.lengths[video]
    words = int(batch.words.mask[query].sum())
    return Batch(
        video=batch.video[start : start + length],
        frames=Layout([length]),
        video_of_query=(0,),
        group_of_query=(0,),
        words=Words(batch.words.vectors[query : query + 1, :words], batch.words.mask[query : query + 1, :words]),
        narration=None if batch.narration is None else batch.narration[start : start + length],
    )


def one_frame_batch(subject: Subject) -> Batch:
    """Two queries about two videos of one frame each, with what training draws."""
    whole = subject.batch()
    picked = Layout([1, 1])
    words = Words(whole.words.vectors[[0, 3]], whole.words.mask[[0, 3]])
    assert whole.targets is not None
    frame = torch.ones(2, 1, dtype=torch.bool)
    nothing = torch.zeros(2, 2, dtype=torch.int64)
    targets = replace(
        whole.targets,
        windows=torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]]),
        window_counts=(1, 1),
        clip_mask=frame,
        saliency=frame.float(),
        positive=nothing,
        negative=nothing,
    )
    negative = None if whole.negative_query is None else torch.from_numpy(np.array([1, 0]))
    mask = whole.word_mask
    if mask is not None:
        mask = replace(mask, masked=mask.masked[[0, 3]], unknown=mask.unknown[[0, 3]], labels=mask.labels[[0, 3]])
    narration = None if whole.narration is None else whole.narration[:2]
    return Batch(whole.video[:2], picked, (0, 1), (0, 1), words, negative, mask, targets, narration=narration)


def losses_and_gradients(subject: Subject) -> dict[str, float]:
    """Losses of a batch and norms of the parameters' gradients, with weights that are a formula of their names."""
    network, batch = subject.without_dropout().train(), subject.batch(windows=2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(formula_weight(name, tuple(parameter.shape))))
    losses = network.losses(network(batch), batch, subject.losses)
    losses["total"].backward()
    norms = {f"gradient of {n}": float(p.grad.norm()) for n, p in network.named_parameters() if p.grad is not None}
    found = {name: value.item() for name, value in losses.items()}
    return {**found, **{name: norm for name, norm in norms.items() if norm > 1e-4}}


if __name__ == "__main__":
    rounded = {s.name: {k: float(f"{v:.7g}") for k, v in losses_and_gradients(s).items()} for s in SUBJECTS}
    (Path(__file__).parent / "golden" / "losses.json").write_text(json.dumps(rounded, indent=1) + "\n")
