"""EMB and its plain form, with the same weights on the same batch, and one step of either."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import cast

import torch

from mesm.model.networks.emb import Emb
from mesm.model.registry import build_network
from mesm.pipeline.config.schema import TrainConfig
from mesm.pipeline.train.optimisation import make_optimiser
from mesm.tools.benchmarks.networks import Pair, at_inference, train_step
from mesm.tools.benchmarks.timing import Step
from mesm.tools.reference_elastic import ReferenceEmb

TRAINING = TrainConfig(lr=5e-4, weight_decay=0.01, optimiser="adamw-decay-after")


class ElasticPair(Pair):
    """Our EMB and its plain form."""

    def train_step(self) -> Step:
        """One step of ours, by the published optimiser."""
        return train_step(self.model.train(), self.losses, make_optimiser(self.model, TRAINING))

    def plain(self) -> ReferenceEmb:
        """Build the plain form with our weights."""
        network = build_network(self.config, self.sizes).to(self.device)
        network.load_state_dict(self.model.state_dict())
        return ReferenceEmb(cast(Emb, network))

    def reference_step(self, what: str) -> Step:
        """One step, or the answers, of the plain form."""
        network = self.plain()
        if what == "infer":
            network.eval()
            batch = at_inference(self.batch)

            def answer() -> None:
                with torch.no_grad(), self.autocast():
                    network(batch)

            return answer

        def losses() -> dict[str, torch.Tensor]:
            with self.autocast():
                output = network(self.batch)
            return network.losses(output.float(), self.batch, self.loss)

        return train_step(network.train(), losses, make_optimiser(network, TRAINING))


def elastic_difference(setting: str, device: torch.device) -> float:
    """Largest relative difference of the losses of both forms, in fp32 without dropout."""
    pair = ElasticPair(setting, argparse.Namespace(device=str(device), precision="fp32", compile=False))
    pair.config = replace(pair.config, dropout=0.0)  # type: ignore[call-arg]
    pair.model = build_network(pair.config, pair.sizes).to(device)
    plain = pair.plain()
    with torch.no_grad():
        ours = pair.model.losses(pair.model.train()(pair.batch), pair.batch, pair.loss)
        theirs = plain.losses(plain.train()(pair.batch), pair.batch, pair.loss)
    return max(abs(float(ours[name]) - float(theirs[name])) / abs(float(theirs[name])) for name in ours)
