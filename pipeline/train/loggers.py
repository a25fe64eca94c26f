"""Where the figures of each epoch go: always to metrics.jsonl, and to TensorBoard where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.run.directory import RunDirectory

TENSORBOARD_FOLDER = "tensorboard"


class MetricLog(Protocol):
    """Takes the figures of epochs."""

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Keep a row: numbers, or mappings of numbers, by name. A row of the same or a later epoch is replaced."""

    def close(self) -> None:
        """Write what is not written yet."""


class JsonLinesLog:
    """One JSON object an epoch in metrics.jsonl, which is complete after each."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Write the file anew with this row behind those of earlier epochs."""
        self.run.set_metrics([*[r for r in self.run.metrics() if r["epoch"] < epoch], dict(row)])

    def close(self) -> None:
        """Nothing is left to write."""


class TensorBoardLog:
    """Scalars by name, such as `loss/total` and `validation/MR-full-mAP`, in event files below the run directory."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        """Go on at an epoch: what a killed run logged from there on is hidden. PipelineError without the package."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise PipelineError(
                f"train.log: tensorboard needs the package tensorboard ({error}); run "
                "`pip install 'mesm-pipeline[tensorboard]'`, or leave train.log at jsonl"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def log(self, row: Mapping[str, Any], epoch: int) -> None:
        """Add every number of the row."""
        for name, value in flat(row):
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def flat(row: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a row with its name, those of inner mappings as `outer/inner`."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{above}{name}", float(value)


def open_logs(config: Config, run: RunDirectory, first_epoch: int) -> list[MetricLog]:
    """Open the logs that the configuration asks for; PipelineError when a package is missing."""
    logs: list[MetricLog] = [JsonLinesLog(run)]
    if config.train.log == "tensorboard":
        logs.append(TensorBoardLog(run.path / TENSORBOARD_FOLDER, first_epoch))
    return logs
