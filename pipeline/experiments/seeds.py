"""Several runs of one configuration that differ by their seed, and what they say together."""

from __future__ import annotations

import statistics

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.report.table import MetricsTable
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.directory import RunDirectory

FIGURES = {
    "R1@0.3": "MR-full-R1@0.3",
    "R1@0.5": "MR-full-R1@0.5",
    "R1@0.7": "MR-full-R1@0.7",
    "mIoU": "MR-full-miou",
    "mAP avg": "MR-full-mAP",
}


def parse_seeds(text: str) -> list[int]:
    """Read `0,1,2`; PipelineError for anything else, or the same seed twice."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise PipelineError(f"--seeds {text!r}: expected whole numbers with commas between them, such as 0,1,2")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise PipelineError(f"--seeds {text!r}: a seed stands there twice")
    return seeds


def best_figures(run: RunDirectory) -> dict[str, float]:
    """Validation figures of a run's best epoch."""
    best = run.load(BEST)
    epoch = None if best is None else best.meta["state"]["best_epoch"]
    row = next((row for row in run.metrics() if row["epoch"] == epoch), None)
    if row is None:
        raise PipelineError(f"{run.path}: the metrics of its best epoch are missing; train it to the end")
    return {name: row["validation"][key] for name, key in FIGURES.items()}


def summary(rows: dict[str, dict[str, float]]) -> MetricsTable:
    """Each run's figures, their mean and, of two or more, their standard deviation."""
    columns = tuple(next(iter(rows.values())))
    table = {name: tuple(row[column] for column in columns) for name, row in rows.items()}
    series = list(zip(*table.values(), strict=True))
    table["mean"] = tuple(statistics.mean(values) for values in series)
    if len(rows) > 1:
        table["deviation"] = tuple(statistics.stdev(values) for values in series)
    return MetricsTable(columns, tuple(table.items()))
