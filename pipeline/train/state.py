"""Where a training stands: network, optimiser, average and progress; to a checkpoint and back."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mesm.datasets.annotations.records import shorten
from mesm.model.network import Network
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import config_from_plain
from mesm.pipeline.config.schema import Config, to_plain
from mesm.pipeline.run.checkpoint import BEST, LAST, Checkpoint, optimiser_tensors, restore_optimiser
from mesm.pipeline.run.console import say
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.train.optimisation import Average, make_optimiser

if TYPE_CHECKING:
    from mesm.pipeline.train.data import TrainingData

MAY_CHANGE = ("extract.", "train.epochs:", "train.log:", "dataset.annotations:")
"""Options that a run may be resumed with other values of."""


@dataclass
class Progress:
    """How far training is."""

    epoch: int = 0
    step: int = 0
    """Steps of this epoch that are done."""
    best_score: float = -math.inf
    best_epoch: int = -1
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the loss parts over the steps of this epoch."""

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold, which is no infinity."""
        return {**dataclasses.asdict(self), "best_score": self.best_score if math.isfinite(self.best_score) else None}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Progress:
        """Read what `to_json` returned."""
        score = content["best_score"]
        progress = cls(**{**content, "best_score": -math.inf if score is None else float(score)})
        if not all(type(number) is int for number in (progress.epoch, progress.step, progress.best_epoch)):
            raise ValueError(f"expected whole numbers of epochs and steps, found {shorten(content)}")
        return progress


@dataclass
class TrainingState:
    """Everything that a step changes."""

    network: Network
    optimiser: torch.optim.Optimizer
    average: Average | None
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def start(cls, config: Config, network: Network) -> TrainingState:
        """Begin from a network that has taken no step."""
        average = Average(network, config.train.ema) if config.train.ema else None
        return cls(network, make_optimiser(network, config.train), average)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights to validate and keep: averaged when averaging is on."""
        return self.network.answering_state() if self.average is None else self.average.weights

    def restore(self, checkpoint: Checkpoint, run: RunDirectory, epochs: int) -> None:
        """Go on from the `last` checkpoint of a run, towards so many epochs.

        Raises PipelineError when it is not of this training, or when the run is complete and its best weights are gone.
        """
        last = run.checkpoint_path(LAST)
        try:
            self.network.load_state_dict(checkpoint.part("model"))
            restore_optimiser(self.optimiser, self._names(), checkpoint.part("optimiser"))
            if self.average is not None:
                device = next(self.network.parameters()).device
                self.average.load(_like(self.average.weights, checkpoint.part("averaged")), device)
            self.progress = Progress.from_json(checkpoint.meta["state"])
        except (RuntimeError, LookupError, ValueError, TypeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise PipelineError(
                f"{last} does not hold the state of this training: {reason}; delete it, and the training begins anew"
            ) from error
        best = run.checkpoint_path(BEST)
        if self.progress.best_epoch >= 0 and not best.exists():
            if self.progress.epoch >= epochs:
                raise PipelineError(f"{best} is gone; delete {last.name}, too, and the same training begins anew")
            say(f"warning: {best} is gone; the best of the epochs to come is kept instead")
            self.progress.best_score, self.progress.best_epoch = -math.inf, -1

    def save_last(self, run: RunDirectory, config: Config, data: TrainingData) -> None:
        """Publish everything that resuming needs."""
        tensors = {f"model.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= optimiser_tensors(self.optimiser, self._names())
        if self.average is not None:
            tensors |= {f"averaged.{k}": v for k, v in self.average.weights.items()}
        run.save(LAST, tensors, {**self._meta(config, data), "weights": "trained"})

    def save_best(self, run: RunDirectory, config: Config, data: TrainingData) -> None:
        """Publish the weights that grounding and evaluation use."""
        kind = "trained" if self.average is None else "averaged"
        tensors = {f"model.{k}": v for k, v in self.weights.items()}
        run.save(BEST, tensors, {**self._meta(config, data), "weights": kind})

    def _names(self) -> list[str]:
        return [name for name, _ in self.network.named_parameters()]

    def _meta(self, config: Config, data: TrainingData) -> dict[str, Any]:
        return {
            "config": to_plain(config),
            "sizes": dataclasses.asdict(self.network.sizes),
            "fingerprints": data.fingerprints,
            "queries": data.queries_hash,
            "validation": data.validation_name,
            "vocabulary": data.vocabulary.to_json(),
            "text": data.text.state(),
            "longest_rows": data.longest_rows,
            "state": self.progress.to_json(),
            "versions": {name: importlib.metadata.version(name) for name in ("mesm-pipeline", "torch", "numpy")},
        }


def _like(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return what was stored in the place of weights; ValueError unless names and shapes are the same."""
    if {n: x.shape for n, x in expected.items()} != {n: x.shape for n, x in found.items()}:
        raise ValueError("its averaged weights are of another network")
    return found


def refuse_other_run(
    run: RunDirectory, meta: Mapping[str, Any], config: Config, fingerprints: Mapping[str, str], queries: str
) -> None:
    """Raise PipelineError when a checkpoint's run had another network, features, queries or configuration.

    fingerprints: of the features, by encoder; queries: their `queries_hash`.
    """
    # Options that came after the run was begun have their defaults in it.
    earlier = config_from_plain(meta["config"], str(run.path))
    if earlier.model.name != config.model.name:
        raise PipelineError(
            f"{run.path} holds a run of the network {earlier.model.name}, not of {config.model.name}; "
            "name it by --network to resume it, or choose another --out"
        )
    if meta["fingerprints"] != fingerprints:
        pairs = [
            f"{name}: {found[:12]} there, {fingerprints.get(name, 'none')[:12]} here"
            for name, found in meta["fingerprints"].items()
            if fingerprints.get(name) != found
        ]
        raise PipelineError(f"{run.path} was trained on other features: {'; '.join(pairs)}; choose another --out")
    if meta.get("queries", queries) != queries:
        raise PipelineError(
            f"{run.path} was trained on other queries, or validated on another split, than the annotations "
            "and --select-on give now; use the same to resume it, or choose another --out"
        )
    found = [d for d in differences(to_plain(earlier), to_plain(config)) if not d.startswith(MAY_CHANGE)]
    if found:
        raise PipelineError(
            f"{run.path} holds a run with another configuration:\n  "
            + "\n  ".join(found)
            + "\nuse the same configuration to resume it, or choose another --out"
        )


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Name every value in which what a folder holds and what is asked for now differ, by its dotted key."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif old != new:
        yield f"{place}: {old} there, {new} here"
