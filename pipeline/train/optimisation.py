"""The parts of an optimiser step that are functions of their arguments: rate, clipping, average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mesm.model.network import Network
from mesm.pipeline.config.schema import TrainConfig
from mesm.pipeline.train.adamw_decay_after import AdamWDecayAfter


def make_optimiser(network: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """The configured AdamW over all parameters, in their order."""
    if train.optimiser == "adamw-decay-after":
        return AdamWDecayAfter(network.named_parameters(), train.lr, train.weight_decay)
    return torch.optim.AdamW(network.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)


def learning_rate(train: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0 over the whole training."""
    total = train.epochs * steps_per_epoch
    # A short training, of few annotations, would otherwise end before the rate falls.
    warmup = min(train.warmup_steps, total // 3) if train.schedule == "cosine" else train.warmup_steps
    if step < warmup:
        return train.lr * (step + 1) / warmup
    if train.schedule == "constant":
        return train.lr
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    if train.schedule == "linear":
        return train.lr * (1 - progress)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))


def optimiser_step(optimiser: torch.optim.Optimizer, total: Tensor, rate: float, clip_norm: float) -> Tensor:
    """Follow the gradient of a loss (scalar), its norm clipped (0: not at all); returns the norm before."""
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    for group in optimiser.param_groups:
        group["lr"] = rate
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf, foreach=True)
    optimiser.step()
    return norm


class Average:
    """An exponential moving average of a network's weights; what is no number with a fraction is copied."""

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in network.answering_state().items()}

    @torch.no_grad()
    def update(self, network: Network, steps: int) -> None:
        """Take in the weights after `steps` steps."""
        # A young average would remember the random start; its decay grows with the number of steps.
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for name, value in network.answering_state().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)

    def load(self, weights: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over an average that was stored."""
        self.weights = {name: value.to(device) for name, value in weights.items()}
