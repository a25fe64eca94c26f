"""Training by several processes, as torchrun starts them: who this process is, and what they say to one another.

Every process draws the whole batch (all drawing is seeded by epoch and step) and answers its share of the groups, so
that the losses are those of one process. Checkpoints say nothing of the number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mesm.pipeline.config.errors import PipelineError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a training run. One process needs no communication."""

    rank: int = 0
    size: int = 1
    group: Any = None
    """Channel of the gathered rows, apart from that of the gradients, whose messages may overtake them."""

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's contiguous part; parts differ by at most one item, and may be empty."""
        bounds = [len(items) * rank // self.size for rank in (self.rank, self.rank + 1)]
        return items[bounds[0] : bounds[1]]

    def gather(self, x: Tensor) -> Tensor:
        """Join rows (n, ...) of all processes in their order; gradients flow back to where the rows came from."""
        if self.size == 1:
            return x
        counts = self.gather_objects(len(x))
        return _Gather.apply(x, counts, self.rank, self.group)

    def sum(self, x: Tensor) -> Tensor:
        """Add up a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def gather_objects(self, value: T) -> list[T]:
        """Return everybody's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


class _Gather(torch.autograd.Function):
    """all_gather of parts of different lengths; the gradient of a part is the sum of what everybody makes of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int], rank: int, group: Any) -> Tensor:
        ctx.counts, ctx.rank, ctx.group = counts, rank, group
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        start = sum(ctx.counts[: ctx.rank])
        return gradient[start : start + ctx.counts[ctx.rank]], None, None, None


def join_world(device: torch.device) -> tuple[World, torch.device]:
    """Join the processes that torchrun started, if it did; returns who this is and the device to use."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE, device
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise PipelineError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start several processes by "
            "torchrun --nproc-per-node N -m mesm.pipeline train ..."
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size(), dist.new_group()), device
