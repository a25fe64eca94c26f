"""The page of a training run: curves of losses and validation figures, tables of evaluations, configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.report.charts import line_chart, sparkline
from mesm.pipeline.report.page import render
from mesm.pipeline.report.table import MetricsTable
from mesm.pipeline.run.directory import read_metrics
from mesm.pipeline.run.text_files import publish_text

METRICS_FILE, CONFIG_FILE, REPORT_FILE = "metrics.jsonl", "config.yaml", "report.html"
RECALLS = {
    "R1@0.1": "MR-full-R1@0.1",
    "R1@0.3": "MR-full-R1@0.3",
    "R1@0.5": "MR-full-R1@0.5",
    "R1@0.7": "MR-full-R1@0.7",
    "mIoU": "MR-full-miou",
}
PRECISIONS = {"mAP avg": "MR-full-mAP", "mAP@0.5": "MR-full-mAP@0.5", "mAP@0.75": "MR-full-mAP@0.75"}
HEADLINES = ("mIoU", "R1@0.5", "mAP avg")

Row = Mapping[str, Any]


def write_run_report(
    run_dir: Path,
    tables: Mapping[str, MetricsTable] | None = None,
    notes: Sequence[str] = (),
    reliability: Sequence[str] = (),
) -> Path:
    """Write `report.html` of a run directory from its metrics.jsonl and config.yaml, and return its path.

    Without a metrics.jsonl it is that of a network that is not trained, of which `tables` are shown.

    `tables` are evaluations by caption; `notes` are sentences that a reader must know, such as how the best epoch was
    chosen; `reliability` are charts of what scores mean. Raises PipelineError when there is nothing to show,
    FeatureError when the report cannot be written.
    """
    metrics = run_dir / METRICS_FILE
    rows = [] if tables and not metrics.exists() else _read_metrics(metrics)
    config, path = run_dir / CONFIG_FILE, run_dir / REPORT_FILE
    page = render(
        "run.html.j2",
        name=run_dir.resolve().name,
        epochs=len(rows),
        seconds=sum(float(row.get("seconds", 0)) for row in rows),
        facts=_facts(rows),
        notes=notes,
        tables=tables or {},
        reliability=reliability,
        validation=_validation_charts(rows),
        total_loss=line_chart("Total loss", "epoch", {"total": _series(rows, "loss", "total")}) if rows else None,
        sparks=_sparklines(rows),
        config=config.read_text("utf-8", "replace") if config.is_file() else None,
    )
    publish_text(path, page)
    return path


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read one row an epoch; damaged lines are left out."""
    try:
        rows = read_metrics(path)
    except OSError as error:
        raise PipelineError(f"{path}: expected the metrics of a run ({error.strerror}); train first") from error
    if not rows:
        raise PipelineError(f"{path}: expected the metrics of at least one epoch, found none yet")
    return rows


def _facts(rows: Sequence[Row]) -> dict[str, str]:
    """Return the figures of the run by what they are; none of one without training."""
    if not rows:
        return {}
    facts = {"epochs": str(len(rows)), "steps an epoch": str(rows[-1].get("steps", ""))}
    for name in HEADLINES:
        points = _series(rows, "validation", (RECALLS | PRECISIONS)[name])
        if points:
            epoch, value = max(points, key=lambda point: (point[1], -point[0]))
            facts[f"best {name}, epoch {epoch:.0f}"] = f"{value:.2f}"
    return facts


def _validation_charts(rows: Sequence[Row]) -> list[str]:
    charts = (("Recall and mean IoU, per cent", RECALLS), ("Average precision, per cent", PRECISIONS))
    drawn = (
        line_chart(title, "epoch", {name: _series(rows, "validation", key) for name, key in keys.items()})
        for title, keys in charts
    )
    return [chart for chart in drawn if chart]


def _sparklines(rows: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row.get("loss", {}) if name != "total")
    curves = {name: _series(rows, "loss", name) for name in names}
    curves["learning rate"] = [(row["epoch"] + 1, row["learning_rate"]) for row in rows if "learning_rate" in row]
    return [sparkline(name, points) for name, points in curves.items()]


def _series(rows: Sequence[Row], part: str, key: str) -> list[tuple[float, float]]:
    """Return (epoch from 1, value) where the row has this figure."""
    found = ((row["epoch"] + 1, (row.get(part) or {}).get(key)) for row in rows)
    return [(float(epoch), float(value)) for epoch, value in found if isinstance(value, (int, float))]
