"""Checkpoints: tensors by name and a description as JSON; none of it needs pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.publishing import replace_file
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.package import WEIGHTS, is_package, verify

METADATA_KEY = "mesm-checkpoint"
FORMAT = 1
LAST, BEST = "last", "best"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and everything else as JSON."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below a prefix, without it."""
        return {k.removeprefix(f"{prefix}."): v for k, v in self.tensors.items() if k.startswith(f"{prefix}.")}


def checkpoint_file(run: Path, which: str) -> Path:
    """The file of a run's checkpoint: `last` or `best`."""
    return run / f"checkpoint-{which}.safetensors"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Publish a checkpoint: a reader finds the old or the new one, never half.

    FeatureError when the disk is full or the folder cannot be written.
    """
    text = json.dumps({"format": FORMAT, **meta}, separators=(",", ":"), sort_keys=True)
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {METADATA_KEY: text})

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            half = len(content) // 2
            file.write(content[:half])
            write_point("checkpoint:half-written")
            file.write(content[half:])

    write_point("checkpoint:before-write")
    replace_file(path, write)
    write_point("checkpoint:published")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file, or the best one of a run directory, or an exported package.

    PipelineError when it is missing, damaged or of another format, or when a package's files were changed.
    """
    if path.is_dir() and is_package(path) and not checkpoint_file(path, BEST).exists():
        verify(path)
        path = path / WEIGHTS
    elif path.is_dir():
        path = checkpoint_file(path, BEST)
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not isinstance(meta, dict):
            raise ValueError(f"expected its description to be an object, found {meta!r}")
    except FileNotFoundError as error:
        raise PipelineError(f"there is no checkpoint {path}; train first, or give a run directory") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise PipelineError(f"{path} is not a checkpoint of this program, or is damaged: {error}") from error
    if meta.get("format") != FORMAT:
        raise PipelineError(f"{path} has format {meta.get('format')}; this version reads {FORMAT}")
    return Checkpoint(tensors, meta)


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Return the moments of AdamW by parameter name."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{kind}.{names[number]}": torch.as_tensor(value)
        for number, kinds in state.items()
        for kind, value in kinds.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Put the moments back that `optimiser_tensors` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    numbers = {name: number for number, name in enumerate(names)}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        state.setdefault(numbers[name], {})[kind] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def refuse_other_features(expected: Mapping[str, str], found: Mapping[str, str], path: Path) -> None:
    """Raise PipelineError unless the features have the fingerprints that the checkpoint was trained with."""
    wrong = [
        f"{name}: trained with {fingerprint[:12]}, found {found.get(name, 'none')[:12]}"
        for name, fingerprint in expected.items()
        if found.get(name) != fingerprint
    ]
    if wrong:
        raise PipelineError(
            f"{path} was trained on other features ({'; '.join(wrong)}); extract with the configuration that it was "
            "trained with, or import the same files"
        )
