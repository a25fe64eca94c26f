"""Our network and its plain form, with the same weights on the same batch, and one step of either."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mesm.model.batch import Batch
from mesm.model.networks.mesm import MesmConfig
from mesm.model.networks.msat import MsatConfig
from mesm.model.registry import build_network
from mesm.pipeline.importers.published_names import our_name
from mesm.pipeline.run.precision import half_precision
from mesm.pipeline.train.compiling import forward_and_losses
from mesm.tools.benchmarks.timing import Step
from mesm.tools.reference_batch import PlainBatch
from mesm.tools.reference_grid import PlainGridBatch, ReferenceMsat, reference_grid_losses
from mesm.tools.reference_losses import reference_losses
from mesm.tools.reference_network import ReferenceMesm
from mesm.tools.synthetic_batches import SHAPES, configs_of, make_batch


def train_step(
    network: torch.nn.Module, forward: Callable[[], dict[str, torch.Tensor]], optimiser: torch.optim.Optimizer
) -> Step:
    """One optimiser step, as training does it."""
    parameters = list(network.parameters())

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        losses = forward()
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.1, foreach=True)
        optimiser.step()
        torch.stack([*(value.detach().float() for value in losses.values()), norm.float()]).tolist()

    return step


class Pair:
    """Our network and its plain form with the same weights, on the same batch."""

    def __init__(self, setting: str, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.config, self.sizes, self.loss = configs_of(setting)
        self.options = options
        self.host_batch = make_batch(SHAPES[setting])
        self.batch = self.host_batch.to(self.device)
        torch.manual_seed(0)
        self.model = build_network(self.config, self.sizes).to(self.device)
        self.forward, self.compute_losses = forward_and_losses(self.model, compiled=False)

    def compile(self) -> None:
        """From now on, run compiled what `--compile` compiles."""
        self.forward, self.compute_losses = forward_and_losses(self.model, compiled=True)

    def autocast(self) -> torch.autocast:
        """Return the context of the asked precision."""
        return half_precision(self.device, self.options.precision)

    def losses(self) -> dict[str, torch.Tensor]:
        """Forward and losses of ours."""
        # A batch is new in every step, and so is what follows from it.
        batch = replace(self.batch)
        batch.prepare()
        with self.autocast():
            output = self.forward(batch)
        return self.compute_losses(output.float(), batch, self.loss)

    def train_step(self) -> Step:
        """One step of ours."""
        self.model.train()
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=2e-4, weight_decay=1e-4, fused=True)
        return train_step(self.model, self.losses, optimiser)

    def infer(self) -> Step:
        """The answers of ours."""
        self.model.eval()

        def step() -> None:
            batch = at_inference(self.batch)
            batch.prepare()
            with torch.no_grad(), self.autocast():
                self.forward(batch)

        return step

    def grid_reference(self) -> tuple[ReferenceMsat, PlainGridBatch]:
        """Build MSAT's plain form with our weights."""
        assert isinstance(self.config, MsatConfig)
        network = ReferenceMsat(self.config, self.sizes).to(self.device)
        network.ours.load_state_dict(self.model.state_dict())
        return network, PlainGridBatch(self.host_batch, self.config.bins, self.device)

    def _grid_step(self, what: str) -> Step:
        """One step, or the answers, of MSAT's plain form."""
        network, batch = self.grid_reference()
        if what == "infer":
            network.eval()

            def answer() -> None:
                with torch.no_grad(), self.autocast():
                    network(batch)

            return answer

        def losses() -> dict[str, torch.Tensor]:
            with self.autocast():
                out = network(batch)
            return reference_grid_losses({k: v.float() for k, v in out.items()}, batch, network, self.loss)

        optimiser = torch.optim.AdamW(network.train().parameters(), lr=2e-4, weight_decay=1e-4)
        return train_step(network, losses, optimiser)

    def reference(self) -> tuple[ReferenceMesm, PlainBatch]:
        """Build MESM's plain form with our weights."""
        assert isinstance(self.config, MesmConfig)
        network = ReferenceMesm(self.config, self.sizes).to(self.device)
        state = self.model.state_dict()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(state[our_name(name) or ""])
        return network, plain_to(PlainBatch.of(self.host_batch), self.device)

    def reference_step(self, what: str) -> Step:
        """One step, or the answers, of the plain form."""
        if isinstance(self.config, MsatConfig):
            return self._grid_step(what)
        network, batch = self.reference()
        if what == "infer":
            network.eval()
            batch = replace(batch, masked=None)

            def answer() -> None:
                with torch.no_grad(), self.autocast():
                    network(batch)

            return answer

        def losses() -> dict[str, torch.Tensor]:
            with self.autocast():
                out = network(batch)
            out = {k: v if v.dtype == torch.bool else v.float() for k, v in out.items()}
            return reference_losses(out, batch, self.loss)

        optimiser = torch.optim.AdamW(network.train().parameters(), lr=2e-4, weight_decay=1e-4)
        return train_step(network, losses, optimiser)


def at_inference(batch: Batch) -> Batch:
    """Leave out what only training needs."""
    return replace(batch, negative_query=None, word_mask=None, targets=None)


def plain_to(batch: PlainBatch, device: torch.device) -> PlainBatch:
    """Move a plain batch to a device."""
    moved: dict[str, Any] = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(batch).items()}
    moved["windows"] = [w.to(device) for w in batch.windows]
    return PlainBatch(**moved)


def same_losses(setting: str, device: torch.device) -> float:
    """Largest relative difference of the losses of both forms, in fp32 without dropout; the total one's too."""
    config, sizes, loss = configs_of(setting)
    options = argparse.Namespace(device=str(device), precision="fp32", compile=False)
    pair = Pair(setting, options)
    if isinstance(config, MsatConfig):
        return _same_grid_losses(pair)
    assert isinstance(config, MesmConfig)
    pair.config = replace(config, dropout=0.0, input_dropout=0.0)
    pair.model = build_network(pair.config, sizes).to(device)
    network, batch = pair.reference()
    with torch.no_grad():
        ours = pair.model.losses(pair.model.train()(pair.batch), pair.batch, loss)
        plain = reference_losses(network.train()(batch), batch, loss)
    names = {"saliency": "loss_saliency", "rebuild_words": "loss_rec_fw", "segment_sentence": "loss_rec_ss"}
    pairs = [(ours[k], plain[names.get(k, k if k == "total" else f"loss_{k}")]) for k in ours]
    return max(abs(float(a) - float(b)) / abs(float(b)) for a, b in pairs)


def _same_grid_losses(pair: Pair) -> float:
    """The same of MSAT."""
    pair.config = replace(pair.config, dropout=0.0)  # type: ignore[call-arg]
    pair.model = build_network(pair.config, pair.sizes).to(pair.device)
    network, batch = pair.grid_reference()
    with torch.no_grad():
        ours = pair.model.losses(pair.model.train()(pair.batch), pair.batch, pair.loss)
        plain = reference_grid_losses(network.train()(batch), batch, network, pair.loss)
    return max(abs(float(ours[k]) - float(plain[k])) / abs(float(plain[k])) for k in ours)
