"""A run directory: the configuration, the metrics of every epoch, and checkpoints that need no pickle.

config.yaml                     complete and resolved
metrics.jsonl                   one line an epoch
checkpoint-last.safetensors     everything that resuming needs
checkpoint-best.safetensors     the weights that grounding and evaluation use
predictions-<split>.jsonl, report.html
"""

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

from mesm.datasets.faults import write_point
from mesm.datasets.publishing import remove_stale_temporaries, replace_file, write_errors
from mesm.pipeline.errors import PipelineError

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


class RunDirectory:
    """Reads and writes one run."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def metrics_path(self) -> Path:
        """The file of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def checkpoint_path(self, which: str) -> Path:
        """The file of a checkpoint: `last` or `best`."""
        return self.path / f"checkpoint-{which}.safetensors"

    def create(self) -> None:
        """Make the folder, or clear an old one of what killed writers left; FeatureError when that is impossible."""
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(self.path)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file of the run at once; FeatureError when the disk is full or the folder cannot be written."""
        path = self.path / name
        replace_file(path, lambda temporary: _write_text(temporary, text))
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file of the run at once."""
        return self.write_text(name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def save(self, which: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Publish a checkpoint: a reader finds the old or the new one, never half. Errors as in `write_text`."""
        path = self.checkpoint_path(which)
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

    def load(self, which: str) -> Checkpoint | None:
        """Read a checkpoint of this run; None when there is none."""
        path = self.checkpoint_path(which)
        return load_checkpoint(path) if path.exists() else None

    def metrics(self) -> list[dict[str, Any]]:
        """Read the lines of metrics.jsonl; a half-written last line is left out."""
        if not self.metrics_path.exists():
            return []
        rows = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def set_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write all lines of metrics.jsonl anew, at once."""
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        write_point("metrics:published")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file; PipelineError when it is missing, damaged or of another format."""
    if path.is_dir():
        path = RunDirectory(path).checkpoint_path(BEST)
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


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


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
