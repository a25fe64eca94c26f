"""One step of training: a batch, its losses, an optimiser step.

Whatever is random in a step is seeded by (seed, epoch, step), so that a checkpoint needs no random state, and a resumed
run computes the same loss sequence as one that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mesm.datasets.grouping import epoch_batches
from mesm.model.batch import Batch
from mesm.model.layouts import to_device
from mesm.model.losses import WHOLE, Share
from mesm.model.network_config import Draw
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.batches import batches_by_length
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.run.distributed import ALONE, World
from mesm.pipeline.run.precision import half_precision
from mesm.pipeline.train.compiling import forward_and_losses
from mesm.pipeline.train.optimisation import learning_rate, optimiser_step

if TYPE_CHECKING:
    from mesm.pipeline.train.state import Progress, TrainingState


@dataclass(frozen=True)
class StepFigures:
    """Parts of the loss and the gradient's norm of one step, still on the device: reading them waits for it."""

    epoch: int
    step: int
    names: list[str]
    values: Tensor
    """(parts + 1,), the norm last."""

    def read(self) -> dict[str, float]:
        """Return the parts of the loss; PipelineError with all of them when one, or the gradient, is not finite."""
        *values, norm = self.values.tolist()
        parts = dict(zip(self.names, values, strict=True))
        if not math.isfinite(parts["total"]) or not math.isfinite(norm):
            what = "gradient" if math.isfinite(parts["total"]) else "loss"
            shown = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
            raise PipelineError(
                f"the {what} is not finite in epoch {self.epoch + 1}, step {self.step + 1}: {shown}; the last "
                "checkpoint is from before; train with a lower train.lr, or a lower train.clip_norm, into another --out"
            )
        return parts


def add_to_progress(progress: Progress, unread: list[StepFigures]) -> None:
    """Add steps that are done to the progress of the run, and empty the list; PipelineError as `StepFigures.read`."""
    for figures in unread:
        for name, value in figures.read().items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        progress.step = figures.step + 1
    unread.clear()


class Steps:
    """The steps of one training."""

    def __init__(self, config: Config, data: MomentData, state: TrainingState, world: World = ALONE) -> None:
        """Prepare the steps of this process; PipelineError for options that need whole batches in one process."""
        refuse_what_spans_processes(config, world)
        refuse_large_batches(config, data)
        self.config, self.data, self.state, self.world = config, data, state, world
        self.device = next(state.network.parameters()).device
        self.forward, self.compute_losses = forward_and_losses(state.network, config.train.compile)
        if world.size > 1:
            # Processes meet in the losses, which is no work for a compiler.
            self.compute_losses = state.network.losses
            # Buffers are the same everywhere, as they follow from what all processes see: a queue need not be sent.
            self.forward = DistributedDataParallel(
                self.forward, find_unused_parameters=self._leaves_parameters_idle(), broadcast_buffers=False
            )
        self.per_epoch = len(self.batches(0))

    def _leaves_parameters_idle(self) -> bool:
        """Say whether a batch may hold a single group, hence no negatives, and heads that read these no gradient."""
        single = self.config.dataset.max_queries_per_group > 0 or any(len(batch) < 2 for batch in self.batches(0))
        return Draw.OTHER_QUERY in self.config.model.draws() and single

    def batches(self, epoch: int) -> list[list[int]]:
        """Group numbers of each batch of an epoch."""
        train, groups = self.config.train, self.data.groups
        chunks = self.config.dataset.max_queries_per_group > 0
        batches = epoch_batches(groups, train.batch_groups, seed=train.seed, epoch=epoch, one_chunk_per_video=chunks)
        if not train.group_by_length:
            return batches
        return batches_by_length(batches, self.data.lengths_of_groups())

    def take(self, group_numbers: Sequence[int], step: int) -> StepFigures:
        """Do one optimiser step. Nothing in it waits for the device, but for several windows a query and recurrence."""
        state, train = self.state, self.config.train
        done = state.progress.epoch * self.per_epoch + step
        losses = self.losses(group_numbers, step)
        # The gradients of several processes are averaged, the losses are shares of a sum.
        total = losses["total"] * self.world.size
        norm = optimiser_step(state.optimiser, total, learning_rate(train, done, self.per_epoch), train.clip_norm)
        state.network.after_step(done)
        if state.average is not None:
            state.average.update(state.network, done + 1)
        figures = self.world.sum(torch.stack([value.detach().float() for value in losses.values()]))
        return StepFigures(state.progress.epoch, step, list(losses), torch.cat((figures, norm.float()[None])))

    def losses(self, group_numbers: Sequence[int], step: int) -> dict[str, Tensor]:
        """Compute the losses of a batch, or this process's share; all that is random is seeded by epoch and step."""
        config = self.config
        generator = np.random.default_rng([config.train.seed, self.state.progress.epoch, step])
        indices, groups = self.data.queries_of(group_numbers)
        batch, share = self._own_part(indices, groups, generator)
        batch = replace(batch, progress=self._progress())
        torch.manual_seed(int(generator.integers(2**62)) + self.world.rank)
        self.state.network.prepare(batch)
        with half_precision(self.device, config.train.precision):
            output = self.forward(batch)
        return self.compute_losses(output.float(), batch, config.loss, share)

    def _progress(self) -> Tensor:
        """The share of the epochs that are done, () float64."""
        done = np.array(self.state.progress.epoch / self.config.train.epochs)
        return to_device(done, self.device)

    def _own_part(
        self, indices: Sequence[int], groups: Sequence[int], generator: np.random.Generator
    ) -> tuple[Batch, Share]:
        """Cut the queries that this process answers, and say what share of the batch they are."""
        data, world, draws, crop = self.data, self.world, self.config.model.draws(), self.config.train.crop
        if world.size == 1:
            return data.batch(indices, groups, generator, draws, crop=crop), WHOLE
        own = world.share(sorted(set(groups)))
        # Everybody takes part in a step; without a group of its own a process answers the first one for nothing.
        members = [place for place, group in enumerate(groups) if group in (own or groups[:1])]
        part = range(members[0], members[-1] + 1)
        batch = data.batch(indices, groups, generator, draws, part, crop)
        assert batch.targets is not None
        windows = sum(batch.targets.window_counts)
        if not own:
            return batch, Share(0.0, 0.0, lambda x: world.gather(x[:0]))
        return batch, Share(len(members) / len(indices), windows / data.windows_of(indices), world.gather)


def refuse_large_batches(config: Config, data: MomentData) -> None:
    """Raise PipelineError where a step could hold more queries than the network allows."""
    most = config.model.most_queries()
    largest = sum(sorted((len(group.indices) for group in data.groups), reverse=True)[: config.train.batch_groups])
    if most is not None and largest > most:
        raise PipelineError(
            f"a batch of {config.train.batch_groups} groups may hold {largest} queries, the network keeps {most} "
            "(model.vtc_queue); make that larger, or train.batch_groups smaller"
        )


def refuse_what_spans_processes(config: Config, world: World) -> None:
    """Raise PipelineError for options under which a query's answer depends on queries of other processes."""
    found = config.model.ties()
    if world.size > 1 and found:
        raise PipelineError(f"{' and '.join(found)} needs whole batches in one process; train without torchrun")
