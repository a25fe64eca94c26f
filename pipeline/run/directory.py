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
from pathlib import Path
from typing import Any

from torch import Tensor

from mesm.datasets.plain_text import parse_json
from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.publishing import remove_stale_temporaries, write_errors
from mesm.pipeline.run.checkpoint import Checkpoint, checkpoint_file, load_checkpoint, save_checkpoint
from mesm.pipeline.run.console import say
from mesm.pipeline.run.shown_text import json_text
from mesm.pipeline.run.text_files import hashed, publish_text, without_hash

SHOWN = 10


class RunDirectory:
    """Reads and writes one run."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def metrics_path(self) -> Path:
        """The file of metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def report_path(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    def checkpoint_path(self, which: str) -> Path:
        """The file of a checkpoint: `last` or `best`."""
        return checkpoint_file(self.path, which)

    def create(self) -> None:
        """Make the folder, or clear an old one of what killed writers left; FeatureError when that is impossible."""
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(self.path)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file of the run at once; FeatureError when the disk is full or the folder cannot be written."""
        path = self.path / name
        publish_text(path, text)
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file of the run at once."""
        return self.write_text(name, json_text(value, indent=1) + "\n")

    def save(self, which: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Publish a checkpoint: a reader finds the old or the new one, never half. Errors as in `write_text`."""
        save_checkpoint(self.checkpoint_path(which), tensors, meta)

    def load(self, which: str) -> Checkpoint | None:
        """Read a checkpoint of this run; None when there is none."""
        path = self.checkpoint_path(which)
        return load_checkpoint(path) if path.exists() else None

    def metrics(self) -> list[dict[str, Any]]:
        """Read the epochs of metrics.jsonl; lines that are damaged are left out, with a warning."""
        return read_metrics(self.metrics_path) if self.metrics_path.exists() else []

    def set_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write all lines of metrics.jsonl anew, at once, each with its hash."""
        self.write_text("metrics.jsonl", "".join(json.dumps(hashed(row)) + "\n" for row in rows))
        write_point("metrics:published")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a file of metrics, one object with an `epoch` a line; other lines are left out, with a warning.

    Raises OSError when the file cannot be read.
    """
    rows, damaged = [], []
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
        try:
            row = without_hash(parse_json(line))
        except ValueError:
            row = None
        if row is not None and type(row.get("epoch")) is int:
            rows.append(row)
        elif line.strip():
            damaged.append(str(number))
    if damaged:
        say(f"warning: {path}: no figures of an epoch in line {', '.join(damaged[:SHOWN])}; the other lines are kept")
    return rows
