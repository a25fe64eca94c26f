"""The page of a training run: curves of losses and validation figures, tables of evaluations, configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.report.charts import STYLE as CHART_STYLE
from mesm.pipeline.report.charts import line_chart, sparkline
from mesm.pipeline.report.page import page, seconds_text, table_html
from mesm.pipeline.report.table import MetricsTable
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

STYLE = """
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 1rem; margin: 0; }
.facts div { border-left: 3px solid var(--line); padding-left: .8rem; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.25rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.notes { color: var(--soft); margin: .9rem 0 0; padding-left: 1.1rem; }
.sparks { margin-top: .8rem; }
"""

Row = Mapping[str, Any]
Points = list[tuple[float, float]]


def write_run_report(
    run_dir: Path, tables: Mapping[str, MetricsTable] | None = None, notes: Sequence[str] = ()
) -> Path:
    """Write `report.html` of a run directory from its metrics.jsonl and config.yaml, and return its path.

    `tables` are evaluations by caption; `notes` are sentences that a reader must know, such as how the best epoch
    was chosen. Raises PipelineError when the folder holds no metrics, FeatureError when the report cannot be written.
    """
    rows = _read_metrics(run_dir / METRICS_FILE)
    sections = [_facts(rows, notes)]
    sections += [table_html(table, caption) for caption, table in (tables or {}).items()]
    sections += [_validation(rows), _losses(rows), _configuration(run_dir / CONFIG_FILE)]
    path = run_dir / REPORT_FILE
    name = run_dir.resolve().name
    publish_text(path, page(f"Training run “{name}”", _subtitle(rows), sections, CHART_STYLE + STYLE))
    return path


def _read_metrics(path: Path) -> list[Row]:
    """Read one row an epoch; a half-written last line is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PipelineError(f"{path}: expected the metrics of a run ({error.strerror}); train first") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise PipelineError(f"{path}:{number}: expected one JSON object a line, found {line[:80]!r}") from error
        rows.append(row)
    if not rows:
        raise PipelineError(f"{path}: expected the metrics of at least one epoch, found none yet")
    return rows


def _subtitle(rows: Sequence[Row]) -> str:
    seconds = sum(float(row.get("seconds", 0)) for row in rows)
    return f"{len(rows)} {'epoch' if len(rows) == 1 else 'epochs'}, {seconds_text(seconds)} of training steps"


def _facts(rows: Sequence[Row], notes: Sequence[str]) -> str:
    facts = {"epochs": str(len(rows)), "steps an epoch": str(rows[-1].get("steps", ""))}
    for name in HEADLINES:
        points = _series(rows, "validation", (RECALLS | PRECISIONS)[name])
        if points:
            epoch, value = max(points, key=lambda point: (point[1], -point[0]))
            facts[f"best {name}, epoch {epoch:.0f}"] = f"{value:.2f}"
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    remarks = f'<ul class="notes">{listed}</ul>' if listed else ""
    return f'<section><dl class="facts">{items}</dl>{remarks}</section>'


def _validation(rows: Sequence[Row]) -> str:
    charts = "".join(
        line_chart(title, "epoch", {name: _series(rows, "validation", key) for name, key in keys.items()})
        for title, keys in (("Recall and mean IoU, per cent", RECALLS), ("Average precision, per cent", PRECISIONS))
    )
    return f'<section><h2>Validation</h2><div class="charts">{charts}</div></section>' if charts else ""


def _losses(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(name for row in rows for name in row.get("loss", {}))
    total = line_chart("Total loss", "epoch", {"total": _series(rows, "loss", "total")})
    parts = "".join(sparkline(name, _series(rows, "loss", name)) for name in names if name != "total")
    rate = sparkline(
        "learning rate", [(row["epoch"] + 1, row["learning_rate"]) for row in rows if "learning_rate" in row]
    )
    return (
        f'<section><h2>Training</h2><div class="charts">{total}<div><h3>Parts of the loss, mean of each epoch</h3>'
        f'<div class="sparks">{parts}{rate}</div></div></div></section>'
    )


def _configuration(path: Path) -> str:
    if not path.is_file():
        return ""
    text = escape(path.read_text(encoding="utf-8"))
    folded = f"<details><summary>{CONFIG_FILE}</summary><pre>{text}</pre></details>"
    return f"<section><h2>Configuration</h2>{folded}</section>"


def _series(rows: Sequence[Row], part: str, key: str) -> Points:
    """Return (epoch from 1, value) where the row has this figure."""
    found = ((row["epoch"] + 1, (row.get(part) or {}).get(key)) for row in rows)
    return [(float(epoch), float(value)) for epoch, value in found if isinstance(value, (int, float))]
