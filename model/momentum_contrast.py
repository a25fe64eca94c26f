"""Contrast of videos and sentences with slowly moving encoders and a queue of what they have seen (VTC).

The loss of ALBEF (Li et al., 2021) as arXiv 2312.07435 uses it between the embeddings and the encoder: sums of a
moment's points and of a sentence's words, projected and normalised. Encoders that follow the learnt ones make the keys;
keys of earlier batches stay in a queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMPTY = -100
"""Stands in the queue where no query has been yet."""
HIDDEN = -1e30
START_TEMPERATURE = 0.1
LEAST_TEMPERATURE, LARGEST_TEMPERATURE = 0.001, 0.5
PAIRS = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
"""Layers that a slow copy follows."""


@dataclass(frozen=True)
class Pooled:
    """Sums of N moments and sentences: a linear layer of a sum is that of its parts, its bias as often as there are."""

    video: Tensor
    """(N, D), sum of the points inside the moment."""
    points: Tensor
    """(N, 1), how many these are."""
    text: Tensor
    """(N, D), sum of the words."""
    words: Tensor
    """(N, 1)."""


@dataclass(frozen=True)
class Contrasted:
    """Normalised vectors (N, D) of moments and sentences, learnt and by the slow encoders, which have no gradient."""

    video: Tensor
    text: Tensor
    slow_video: Tensor
    slow_text: Tensor


class MomentumContrast(nn.Module):
    """The two encoders that the main path goes through, and all that the loss needs beside them."""

    visual_encoder: nn.Linear
    text_encoder: nn.Linear
    video_queue: Tensor
    text_queue: Tensor
    queued: Tensor
    pointer: Tensor
    steps: Tensor

    def __init__(
        self,
        dim: int,
        queue: int,
        momentum: float,
        alpha: float,
        warmup_steps: int,
        behaviour: Literal["fixed", "official"],
    ) -> None:
        super().__init__()
        self.momentum, self.alpha, self.warmup_steps = momentum, alpha, warmup_steps
        self.official = behaviour == "official"
        for name in PAIRS:
            self.add_module(name, nn.Linear(dim, dim))
            self.register_buffer(f"slow_{name}_weight", torch.empty(dim, dim))
            self.register_buffer(f"slow_{name}_bias", torch.zeros(dim))
        self.temperature = nn.Parameter(torch.tensor(START_TEMPERATURE))
        # Zeros take no memory before they are written to.
        self.register_buffer("video_queue", torch.zeros(queue, dim))
        self.register_buffer("text_queue", torch.zeros(queue, dim))
        self.register_buffer("queued", torch.full((queue,), EMPTY))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def state_of_training(self) -> list[str]:
        """Names of the buffers and parameters that only the loss reads."""
        kept = ("visual_encoder.", "text_encoder.")
        return [name for name in self.state_dict() if not name.startswith(kept)]

    @torch.no_grad()
    def initialise(self, deviation: float) -> None:
        """Draw all weights; the slow encoders are copies, in `official` others, whose queue is random, too."""
        for name in PAIRS:
            layer, weight, bias = self._pair(name)
            layer.weight.normal_(0, deviation)
            layer.bias.zero_()
            weight.copy_(layer.weight)
            bias.copy_(layer.bias)
            if self.official:
                weight.normal_(0, deviation)
        if self.official:
            for queue in (self.video_queue, self.text_queue):
                queue.normal_()
                queue.div_(queue.norm(dim=1, keepdim=True))

    def _pair(self, name: str) -> tuple[nn.Linear, Tensor, Tensor]:
        return getattr(self, name), getattr(self, f"slow_{name}_weight"), getattr(self, f"slow_{name}_bias")

    @torch.no_grad()
    def follow(self) -> None:
        """Let the slow encoders follow, once a training step, before they are used; keep the temperature in bounds."""
        if not self.official:
            self.temperature.clamp_(LEAST_TEMPERATURE, LARGEST_TEMPERATURE)
        for name in PAIRS:
            layer, weight, bias = self._pair(name)
            weight.mul_(self.momentum).add_(layer.weight, alpha=1 - self.momentum)
            bias.mul_(self.momentum).add_(layer.bias, alpha=1 - self.momentum)

    def vectors(self, pooled: Pooled) -> Contrasted:
        """Encode, project and normalise moments and sentences, both ways."""
        found = []
        for slow in (False, True):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not slow):
                found.append(self._encode(pooled.video, pooled.points, "visual_encoder", "vision_proj", slow))
                found.append(self._encode(pooled.text, pooled.words, "text_encoder", "text_proj", slow))
        return Contrasted(*found)

    def _encode(self, total: Tensor, count: Tensor, encoder: str, projection: str, slow: bool) -> Tensor:
        (first, *slow_first), (second, *slow_second) = self._pair(encoder), self._pair(projection)
        weight, bias = slow_first if slow else (first.weight, first.bias)
        encoded = total @ weight.T + count * bias
        return F.normalize(F.linear(encoded, *(slow_second if slow else (second.weight, second.bias))), dim=-1)

    def loss(self, own: Contrasted, queries: Tensor, gather: Callable[[Tensor], Tensor]) -> Tensor:
        """Contrast of this process's N queries, a mean over them, and the entering of everybody's keys into the queue.

        queries: (N,) int64, which query of the split each one is; gather: joins rows of all processes. Positives are
        the keys of the same query.
        """
        keys_video, keys_text, keys = gather(own.slow_video), gather(own.slow_text), gather(queries)
        everything = torch.cat((keys, self.queued))
        hidden = None if self.official else everything == EMPTY
        target = (queries[:, None] == everything).to(own.video.dtype)
        target = target / target.sum(1, keepdim=True)
        alpha = self.alpha * min(1.0, int(self.steps) / self.warmup_steps) if self.warmup_steps else self.alpha
        ways = (
            (own.video, own.slow_video, keys_text, self.text_queue),
            (own.text, own.slow_text, keys_video, self.video_queue),
        )
        one, other = (_OneWay.apply(*way, self.temperature, target, hidden, alpha) for way in ways)
        self._enter(keys_video, keys_text, keys)
        return (one + other) / 2

    @torch.no_grad()
    def _enter(self, video: Tensor, text: Tensor, queries: Tensor) -> None:
        """Write keys to the queue, over the oldest ones."""
        size = len(self.queued)
        places = (self.pointer + torch.arange(len(queries), device=queries.device)) % size
        self.video_queue[places] = video.to(self.video_queue.dtype)
        self.text_queue[places] = text.to(self.text_queue.dtype)
        self.queued[places] = queries
        self.pointer.copy_((self.pointer + len(queries)) % size)
        self.steps.add_(1)


class _OneWay(torch.autograd.Function):
    """Cross-entropy of queries over keys and queue, with soft targets; the gradient is taken at once.

    So the queue, which is written to before the step is over, need be neither kept nor copied.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        slow: Tensor,
        keys: Tensor,
        queue: Tensor,
        temperature: Tensor,
        target: Tensor,
        hidden: Tensor | None,
        alpha: float,
    ) -> Tensor:
        def similarity(rows: Tensor) -> Tensor:
            found = torch.cat((rows @ keys.T, rows @ queue.T), dim=1).div_(temperature)
            return found if hidden is None else found.masked_fill_(hidden, HIDDEN)

        wanted = similarity(slow).softmax(1).mul_(alpha).add_(target, alpha=1 - alpha)
        scores = similarity(query)
        log_probability = scores.log_softmax(1)
        loss = -(wanted * log_probability).sum(1).mean()
        # Rows of `wanted` add up to 1.
        inner = log_probability.exp_().sub_(wanted).div_(len(query))
        if hidden is not None:
            scores.masked_fill_(hidden, 0.0)
        of_query = (inner[:, : len(keys)] @ keys + inner[:, len(keys) :] @ queue) / temperature
        ctx.save_for_backward(of_query, -(inner * scores).sum() / temperature)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_query, of_temperature = ctx.saved_tensors
        return gradient * of_query, None, None, None, gradient * of_temperature, None, None, None
