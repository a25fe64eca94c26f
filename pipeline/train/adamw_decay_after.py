"""The AdamW of transformers up to its version 4, in which several published networks were trained.

It differs from torch's in three things: epsilon is added to the root of the second moment before that is corrected for
its start at 0, the weights decay after the step, and biases and `layer_norm` do not decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

WITHOUT_DECAY = ("bias", "layer_norm")
"""Parameters whose names hold one of these do not decay."""


class AdamWDecayAfter(torch.optim.Optimizer):
    """step = lr * sqrt(1 - b2^t) / (1 - b1^t); p -= step * m / (sqrt(v) + eps); then p -= lr * decay * p."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
    ) -> None:
        """Optimise the parameters, in their order; all defaults are those of transformers 4."""
        named = list(named_parameters)
        super().__init__([parameter for _, parameter in named], {"lr": lr, "betas": betas, "eps": eps})
        self._decay = [0.0 if any(part in name for part in WITHOUT_DECAY) else weight_decay for name, _ in named]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Follow the gradients; parameters without one stay as they are."""
        if closure is not None:
            raise ValueError("this optimiser takes no closure")
        (group,) = self.param_groups
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        chosen = [(p, d) for p, d in zip(group["params"], self._decay, strict=True) if p.grad is not None]
        if not chosen:
            return
        parameters, gradients = [p for p, _ in chosen], [p.grad for p, _ in chosen]
        states = [self._state_of(p) for p in parameters]
        first, second = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, gradients, alpha=1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_add_(roots, eps)
        sizes = []
        for state in states:
            state["step"] += 1
            done = state["step"].item()
            sizes.append(-lr * math.sqrt(1 - beta2**done) / (1 - beta1**done))
        torch._foreach_addcdiv_(parameters, first, roots, sizes)
        decaying = [(p, d) for p, d in chosen if d > 0]
        if decaying:
            torch._foreach_mul_([p for p, _ in decaying], [1 - lr * d for _, d in decaying])

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            # On the host, as torch's own without fused kernels: to read it does not wait for the device.
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state
