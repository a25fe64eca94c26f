"""Training: shards in, checkpoints and metrics out; the same command again goes on where the last one stopped.

Whatever is random in a step is seeded by (seed, epoch, step), so a checkpoint needs no random state, and a resumed run
computes the same loss sequence as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mesm.datasets.grouping import epoch_batches
from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.publishing import remove_stale_temporaries
from mesm.model import Batch, compute_losses
from mesm.model.losses import WHOLE, Share
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import config_from_plain
from mesm.pipeline.config.schema import Config, to_plain
from mesm.pipeline.data.batches import batches_by_length
from mesm.pipeline.data.texts import WORD_TABLE_FILE, VectorText
from mesm.pipeline.evaluate.metrics import Scores
from mesm.pipeline.evaluate.predict import evaluate_split
from mesm.pipeline.evaluate.tables import metrics_table
from mesm.pipeline.report.run import write_run_report
from mesm.pipeline.report.table import render_text
from mesm.pipeline.run.checkpoint import BEST, LAST, optimiser_tensors, restore_optimiser
from mesm.pipeline.run.console import ProgressBar, say, silence
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.distributed import ALONE, World, join_world
from mesm.pipeline.run.memory import keep_freed_memory
from mesm.pipeline.run.precision import half_precision
from mesm.pipeline.train.compiling import forward_and_losses
from mesm.pipeline.train.data import TrainingData, build_model, load_training_data

READ_EVERY = 10
"""Steps whose figures are read together, so that the host need not wait for the device after each."""


@dataclass
class State:
    """Where training stands."""

    epoch: int = 0
    step: int = 0
    """Steps of this epoch that are done."""
    best_score: float = -math.inf
    best_epoch: int = -1
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """Sums of the loss parts over the steps of this epoch."""


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
                "checkpoint is from before; lower train.lr or set train.clip_norm"
            )
        return parts


class Trainer:
    """One training run."""

    def __init__(
        self, config: Config, data: TrainingData, run: RunDirectory, device: torch.device, world: World = ALONE
    ) -> None:
        self.config, self.data, self.run, self.device, self.world = config, data, run, device, world
        self._refuse_what_spans_processes()
        self.model = build_model(config, data).to(device)
        self.parameters = list(self.model.parameters())
        self.names = [name for name, _ in self.model.named_parameters()]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=config.train.lr, weight_decay=config.train.weight_decay, fused=True
        )
        self.averaged = (
            {k: v.detach().clone() for k, v in self.model.state_dict().items()} if config.train.ema else None
        )
        self.state = State()
        self.forward, self.compute_losses = forward_and_losses(self.model, config.train.compile)
        if world.size > 1:
            # Processes meet in the losses, which is no work for a compiler.
            self.compute_losses = compute_losses
            # A batch of one group has no negatives, hence no gradient for the saliency heads.
            idle = config.dataset.max_queries_per_group > 0 or any(len(batch) < 2 for batch in self.batches(0))
            self.forward = DistributedDataParallel(self.forward, find_unused_parameters=idle)
        self.steps_per_epoch = len(self.batches(0))
        self._saved_at = time.monotonic()

    def batches(self, epoch: int) -> list[list[int]]:
        """Group numbers of each batch of an epoch."""
        train, groups = self.config.train, self.data.train.groups
        chunks = self.config.dataset.max_queries_per_group > 0
        batches = epoch_batches(groups, train.batch_groups, seed=train.seed, epoch=epoch, one_chunk_per_video=chunks)
        if not train.group_by_length:
            return batches
        return batches_by_length(batches, self.data.train.lengths_of_groups())

    def _refuse_what_spans_processes(self) -> None:
        """Raise PipelineError for options under which a query's answer depends on queries of other processes."""
        found = self.config.ties_between_queries()
        if self.world.size > 1 and found:
            raise PipelineError(f"{' and '.join(found)} needs whole batches in one process; train without torchrun")

    def announce(self) -> None:
        """Print the plan."""
        data, train = self.data, self.config.train
        say(
            f"training {self.config.name}: {len(data.train)} queries of {len(data.train.groups)} groups, "
            f"{self.steps_per_epoch} steps an epoch, {train.epochs} epochs"
        )
        parameters = sum(p.numel() for p in self.parameters)
        say(
            f"network: {parameters:,} parameters, frames {data.train.frames.dim}, words {data.text.dim}, "
            f"{data.vocabulary.classes} word classes; {self.device}, {train.precision}"
        )
        say(f"validation: {len(data.validation)} queries, {data.validation_name}; best epoch by {train.select_by}")
        if train.compile:
            slower = "; on a CPU its steps are slower than without" if self.device.type == "cpu" else ""
            say(f"note: the first steps wait minutes for the compiler{slower}")
        if data.validation_name in self.config.dataset.test_splits:
            say(
                f"note: the best epoch is chosen on {data.validation_name}, a test split, as published; "
                "its figures there are too good"
            )

    def restore(self) -> bool:
        """Go on from the last checkpoint, if there is one that fits; PipelineError when it does not."""
        checkpoint = self.run.load(LAST)
        if checkpoint is None:
            return False
        meta = checkpoint.meta
        self._refuse_other(meta)
        self.model.load_state_dict(checkpoint.part("model"))
        restore_optimiser(self.optimiser, self.names, checkpoint.part("optimiser"))
        if self.averaged is not None:
            self.averaged = {k: v.to(self.device) for k, v in checkpoint.part("averaged").items()}
        self.state = State(**{**meta["state"], "best_score": _from_json(meta["state"]["best_score"])})
        return True

    def _refuse_other(self, meta: dict[str, Any]) -> None:
        if meta["fingerprints"] != self.data.fingerprints:
            pairs = [
                f"{name}: {found[:12]} there, {self.data.fingerprints.get(name, 'none')[:12]} here"
                for name, found in meta["fingerprints"].items()
                if self.data.fingerprints.get(name) != found
            ]
            raise PipelineError(
                f"{self.run.path} was trained on other features: {'; '.join(pairs)}; choose another --out"
            )
        if meta.get("queries", self.data.queries_hash) != self.data.queries_hash:
            raise PipelineError(
                f"{self.run.path} was trained on other queries, or validated on another split, than the annotations "
                "and --select-on give now; use the same to resume it, or choose another --out"
            )
        # Options that came after the run was begun have their defaults in it.
        earlier = to_plain(config_from_plain(meta["config"], str(self.run.path)))
        differences = list(_differences(earlier, to_plain(self.config)))
        differences = [
            d for d in differences if not d.startswith(("extract.", "train.epochs:", "dataset.annotations:"))
        ]
        if differences:
            raise PipelineError(
                f"{self.run.path} holds a run with another configuration:\n  "
                + "\n  ".join(differences)
                + "\nuse the same configuration to resume it, or choose another --out"
            )

    def train(self) -> None:
        """Train to the last epoch, validating and saving on the way."""
        while self.state.epoch < self.config.train.epochs:
            self._train_epoch()
            self._end_epoch()

    def _train_epoch(self) -> None:
        self.model.train()
        batches = self.batches(self.state.epoch)
        started, first = time.monotonic(), self.state.step
        title = f"epoch {self.state.epoch + 1}/{self.config.train.epochs}"
        unread: list[StepFigures] = []
        with ProgressBar(title, len(batches), first) as bar:
            for step in range(first, len(batches)):
                unread.append(self.step(batches[step], step))
                save = self.world.leads and time.monotonic() - self._saved_at > self.config.train.checkpoint_every_s
                if save or len(unread) == READ_EVERY or step + 1 == len(batches):
                    self._read(unread)
                    bar.update(step + 1, f"loss {self.state.sums['total'] / self.state.step:.3f}")
                write_point("train:step")
                if save:
                    self._save_last()
        self._epoch_seconds = time.monotonic() - started

    def _read(self, unread: list[StepFigures]) -> None:
        """Add steps that are done to the state of the run, which says how far it is."""
        for figures in unread:
            for name, value in figures.read().items():
                self.state.sums[name] = self.state.sums.get(name, 0.0) + value
            self.state.step = figures.step + 1
        unread.clear()

    def step(self, group_numbers: Sequence[int], step: int) -> StepFigures:
        """Do one optimiser step. Nothing in it waits for the device, but for several windows a query and recurrence."""
        losses = self.losses(group_numbers, step)
        self.optimiser.zero_grad(set_to_none=True)
        # The gradients of several processes are averaged, the losses are shares of a sum.
        (losses["total"] * self.world.size).backward()
        done = self.state.epoch * self.steps_per_epoch + step
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(done)
        most = self.config.train.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, most, foreach=True)
        self.optimiser.step()
        self._average(done + 1)
        figures = self.world.sum(torch.stack([value.detach().float() for value in losses.values()]))
        return StepFigures(self.state.epoch, step, list(losses), torch.cat((figures, norm.float()[None])))

    def losses(self, group_numbers: Sequence[int], step: int) -> dict[str, Tensor]:
        """Compute the losses of a batch, or this process's share; all that is random is seeded by epoch and step."""
        config = self.config
        generator = np.random.default_rng([config.train.seed, self.state.epoch, step])
        indices, groups = self.data.train.queries_of(group_numbers)
        with_saliency = config.model.encoder_loss == "saliency"
        batch, share = self._own_part(indices, groups, generator, with_saliency)
        torch.manual_seed(int(generator.integers(2**62)) + self.world.rank)
        batch.prepare()
        with half_precision(self.device, config.train.precision):
            output = self.forward(batch)
        return self.compute_losses(output.float(), batch, config.loss, share)

    def _own_part(
        self, indices: Sequence[int], groups: Sequence[int], generator: np.random.Generator, with_saliency: bool
    ) -> tuple[Batch, Share]:
        """Cut the queries that this process answers, and say what share of the batch they are."""
        data, world = self.data.train, self.world
        if world.size == 1:
            return data.batch(indices, groups, generator, with_saliency, crop=self.config.train.crop), WHOLE
        own = world.share(sorted(set(groups)))
        # Everybody takes part in a step; without a group of its own a process answers the first one for nothing.
        members = [place for place, group in enumerate(groups) if group in (own or groups[:1])]
        part = range(members[0], members[-1] + 1)
        batch = data.batch(indices, groups, generator, with_saliency, part, self.config.train.crop)
        assert batch.targets is not None
        windows = sum(batch.targets.window_counts)
        if not own:
            return batch, Share(0.0, 0.0, lambda x: world.gather(x[:0]))
        return batch, Share(len(members) / len(indices), windows / data.windows_of(indices), world.gather)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step counted from the start of training."""
        train = self.config.train
        rate = train.lr
        if step < train.warmup_steps:
            return rate * (step + 1) / train.warmup_steps
        if train.schedule == "cosine":
            total = train.epochs * self.steps_per_epoch
            progress = (step - train.warmup_steps) / max(total - train.warmup_steps, 1)
            rate *= 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return rate

    @torch.no_grad()
    def _average(self, done: int) -> None:
        if self.averaged is None:
            return
        # A young average would remember the random start; its decay grows with the number of steps.
        decay = min(self.config.train.ema, (1 + done) / (10 + done))
        for name, value in self.model.state_dict().items():
            self.averaged[name].lerp_(value, 1 - decay)

    def _end_epoch(self) -> None:
        state, steps = self.state, max(self.state.step, 1)
        row: dict[str, Any] = {
            "epoch": state.epoch,
            "steps": state.step,
            "learning_rate": self.learning_rate(state.epoch * self.steps_per_epoch + state.step - 1),
            "seconds": round(self._epoch_seconds, 2),
            "loss": {name: value / steps for name, value in state.sums.items()},
        }
        last = state.epoch + 1 == self.config.train.epochs
        if last or (state.epoch + 1) % self.config.train.validate_every == 0:
            scores = self._validate()
            row["validation"] = scores.brief()
            score = selection_score(scores, self.config.train.select_by)
            if score > state.best_score:
                state.best_score, state.best_epoch = score, state.epoch
                self._save(BEST, {f"model.{k}": v for k, v in self.weights().items()}, self._meta(inference=True))
        if self.world.leads:
            self.run.set_metrics([*[r for r in self.run.metrics() if r["epoch"] < state.epoch], row])
        self.state = State(state.epoch + 1, 0, state.best_score, state.best_epoch)
        self._save_last()
        loss = ", ".join(f"{name} {value:.3f}" for name, value in row["loss"].items())
        say(f"epoch {row['epoch'] + 1}/{self.config.train.epochs}: {row['seconds']:.1f} s; {loss}")

    def weights(self) -> dict[str, Tensor]:
        """The weights to validate and keep: averaged when averaging is on."""
        return self.model.state_dict() if self.averaged is None else self.averaged

    def _validate(self) -> Scores:
        own = None
        if self.averaged is not None:
            own = {k: v.clone() for k, v in self.model.state_dict().items()}
            self.model.load_state_dict(self.averaged)
        self.model.eval()
        scores = evaluate_split(self.model, self.data.validation, self.config, self.world)
        if own is not None:
            self.model.load_state_dict(own)
        say(render_text(metrics_table({f"epoch {self.state.epoch + 1}": scores})))
        return scores

    def _save_last(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors.update(optimiser_tensors(self.optimiser, self.names))
        if self.averaged is not None:
            tensors.update({f"averaged.{k}": v for k, v in self.averaged.items()})
        self._save(LAST, tensors, self._meta(inference=False))
        self._saved_at = time.monotonic()

    def _save(self, which: str, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        if self.world.leads:
            self.run.save(which, tensors, meta)

    def _meta(self, inference: bool) -> dict[str, Any]:
        state = dataclasses.asdict(self.state)
        sizes = self.model.config
        return {
            "config": to_plain(self.config),
            "sizes": {name: getattr(sizes, name) for name in ("video_dim", "text_dim", "word_classes")},
            "fingerprints": self.data.fingerprints,
            "queries": self.data.queries_hash,
            "validation": self.data.validation_name,
            "vocabulary": self.data.vocabulary.to_json(),
            "text": self.data.text.state(),
            "state": {**state, "best_score": _to_json(state["best_score"])},
            "weights": "averaged" if inference and self.averaged is not None else "trained",
            "versions": {name: importlib.metadata.version(name) for name in ("mesm-pipeline", "torch", "numpy")},
        }


def selection_score(scores: Scores, select_by: str) -> float:
    """The figure that chooses the best epoch."""
    full = scores.full
    figures = {"mAP": full.ap_average, "mIoU": full.miou, "R1@0.5": full.r1[0.5], "R1@0.7": full.r1[0.7]}
    return figures[select_by]


def _to_json(score: float) -> float | None:
    return score if math.isfinite(score) else None


def _from_json(score: float | None) -> float:
    return -math.inf if score is None else score


def _differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif old != new:
        yield f"{place}: {old} there, {new} here"


def train(
    config: Config, annotations: Path, features: Path, out: Path, device: torch.device, select_on: str = ""
) -> RunDirectory:
    """Train a configuration, or go on with it, and return its run directory.

    Under torchrun, every process calls this; the first one writes and prints.
    """
    world, device = join_world(device)
    if not world.leads:
        silence()
    keep_freed_memory()
    run = RunDirectory(out)
    if world.leads:
        run.create()
    world.wait()
    data = load_training_data(config, annotations, features, device, select_on)
    trainer = Trainer(config, data, run, device, world)
    trainer.announce()
    if trainer.restore():
        state = trainer.state
        say(f"found a checkpoint after {state.epoch} epochs and {state.step} steps; going on from there")
    elif world.leads:
        run.write_text("config.yaml", config.to_yaml())
        if isinstance(data.text, VectorText):
            data.text.table.save(run.path / WORD_TABLE_FILE)
    world.wait()
    if trainer.state.epoch >= config.train.epochs:
        say(
            f"{out} is complete: {config.train.epochs} epochs, best {trainer.state.best_epoch + 1} by "
            f"{config.train.select_by} {trainer.state.best_score:.2f}"
        )
        return run
    if world.leads:
        remove_stale_temporaries(out)
    trainer.train()
    if world.leads:
        note = f"The best epoch was chosen by {config.train.select_by} on {data.validation_name}."
        write_run_report(out, notes=[note])
    say(
        f"done: best epoch {trainer.state.best_epoch + 1}, {config.train.select_by} {trainer.state.best_score:.2f} on "
        f"{data.validation_name}"
    )
    return run
