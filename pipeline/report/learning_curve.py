"""The page of a learning curve: its charts, and the table that they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mesm.pipeline.report.charts import line_chart
from mesm.pipeline.report.page import render
from mesm.pipeline.report.table import MetricsTable
from mesm.pipeline.run.text_files import publish_text

Series = Mapping[str, Sequence[tuple[float, float]]]


def write_learning_curve_page(
    path: Path, setting: str, split: str, table: MetricsTable, charts: Mapping[str, Series]
) -> None:
    """Write the page; charts: series of (queries, per cent) by title. FeatureError when that is impossible."""
    drawn = [line_chart(f"{title}, per cent", "queries trained on", series) for title, series in charts.items()]
    publish_text(
        path,
        render("learning_curve.html.j2", setting=setting, split=split, table=table, charts=list(filter(None, drawn))),
    )
