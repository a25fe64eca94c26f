"""What training costs: seconds an epoch, and the memory of a process that does nothing but train."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from mesm.datasets.plain_text import read_json
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.checkpoint import LAST
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.memory import peak_memory_bytes
from mesm.pipeline.run.own_process import in_own_process
from mesm.pipeline.train.recipe import train
from mesm.pipeline.workspace import Workspace

COSTS_FILE = "training-costs.json"


@dataclass(frozen=True)
class TrainingCosts:
    """What metrics.jsonl does not say of a training."""

    peak_memory_bytes: int | None = None
    """Of the process that finished it, see `peak_memory_bytes`; None when it was not trained by a comparison."""
    continued: tuple[int, ...] = ()
    """Epochs in the middle of which it was taken up again, whose seconds are only those of their rest."""

    @classmethod
    def of(cls, run: RunDirectory) -> TrainingCosts:
        """Read what is known of a run."""
        file = run.path / COSTS_FILE
        if not file.exists():
            return cls()
        try:
            content = read_json(file)
            peak, continued = content["peak_memory_bytes"], content["continued"]
            return cls(None if peak is None else int(peak), tuple(map(int, continued)))
        except (ValueError, LookupError, TypeError) as error:
            raise PipelineError(f"{file} is damaged ({error}); delete it, and these costs are not reported") from error


def train_apart(workspace: Workspace, out: Path, select_on: str) -> None:
    """Train in a process of its own, or go on with it, and note in the run directory what it cost."""
    in_own_process(train_and_note, workspace, out, select_on, torch.get_num_threads())


def train_and_note(workspace: Workspace, out: Path, select_on: str, threads: int) -> None:
    """Train by so many threads, which is all that this process may do, and note what it cost."""
    torch.set_num_threads(threads)
    run = RunDirectory(out)
    costs, last = TrainingCosts.of(run), run.load(LAST)
    if last is not None and last.meta["state"]["step"]:
        costs = replace(costs, continued=(*costs.continued, last.meta["state"]["epoch"]))
        run.write_json(COSTS_FILE, asdict(costs))
    train(workspace, out, select_on)
    run.write_json(COSTS_FILE, asdict(replace(costs, peak_memory_bytes=peak_memory_bytes(workspace.device))))


def epoch_seconds(run: RunDirectory) -> list[float]:
    """Return the seconds of the steps of every epoch that was trained without a break."""
    continued = TrainingCosts.of(run).continued
    return [row["seconds"] for row in run.metrics() if row["epoch"] not in continued]
