"""How figures grow with the annotations: one training for each share of the videos, and a chart of them.

OUT/share-NN            a run directory each, NN per cent of the training videos, with what was measured of it
OUT/learning-curve.json the figures
OUT/learning-curve.html table and charts
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.data.splits import training_splits
from mesm.pipeline.evaluate.grounding_gap import GAP_FIGURES
from mesm.pipeline.evaluate.stage import read_splits
from mesm.pipeline.experiments.measure import Measurement, measure
from mesm.pipeline.experiments.seeds import FIGURES
from mesm.pipeline.report.learning_curve import write_learning_curve_page
from mesm.pipeline.report.table import Estimate, Figure, MetricsTable
from mesm.pipeline.run.console import say
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.train.recipe import train
from mesm.pipeline.workspace import Workspace

RECORD_FILE, PAGE_FILE = "learning-curve.json", "learning-curve.html"


@dataclass(frozen=True)
class LearningCurve:
    """Figures by the number of queries that were trained on, fewest first."""

    points: dict[int, Measurement]
    split: str

    def table(self) -> MetricsTable:
        """Return a row for each number of queries: the figures, and the gap with its error."""
        columns = (*FIGURES, *(f"gap {name}" for name in GAP_FIGURES))
        rows = []
        for queries, one in self.points.items():
            figures: list[Figure] = [one.figures.get(key) for key in FIGURES.values()]
            figures += [Estimate(*one.gap[name]) if name in one.gap else None for name in GAP_FIGURES]
            rows.append((f"{queries:,} queries", tuple(figures)))
        return MetricsTable(columns, tuple(rows))

    def charts(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """Return the series (queries, per cent) of each chart."""
        figures = {
            name: self._series({q: p.figures.get(FIGURES[name]) for q, p in self.points.items()}) for name in FIGURES
        }
        gaps = {
            name: self._series({q: p.gap[name][0] for q, p in self.points.items() if name in p.gap})
            for name in GAP_FIGURES
        }
        return {"Figures": figures, "Grounding gap": gaps}

    @staticmethod
    def _series(values: Mapping[int, float | None]) -> list[tuple[float, float]]:
        return [(float(queries), value) for queries, value in values.items() if value is not None]

    def as_record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        points = [{"queries": q, "figures": p.figures, "gap": p.gap} for q, p in self.points.items()]
        return {"split": self.split, "points": points}


def parse_shares(text: str) -> list[float]:
    """Read per cent of the training videos, `10,25,50,100`; PipelineError for anything else."""
    try:
        shares = sorted({float(part) for part in text.split(",")})
    except ValueError:
        shares = []
    if not shares or not all(0.1 <= share <= 100 for share in shares):
        raise PipelineError(f"--shares {text!r}: expected per cent with commas between them, such as 10,25,50,100")
    return shares


def learning_curve(workspace: Workspace, shares: Sequence[float], split: str, out: Path) -> LearningCurve:
    """Train on each share (per cent) of the training videos and measure it on a split; what is done is not done again.

    A larger share holds all of a smaller one; the number of epochs is the same, so that small shares take fewer steps.
    """
    place = workspace.require_annotations()
    name = split or workspace.config.dataset.test_splits[0]
    queries = read_splits(workspace.config, place, [name])[0][name]
    points = {}
    for share in shares:
        dataset = replace(workspace.config.dataset, train_share=share / 100)
        own = replace(workspace, config=replace(workspace.config, dataset=dataset))
        trained_on = len(training_splits(own.config, place)[0])
        say(f"--- {share:g} per cent of the videos, {trained_on} queries")
        run = train(own, out / f"share-{share:g}")
        points[trained_on] = measure(run, own, name, queries)
    curve = LearningCurve(points, name)
    RunDirectory(out).write_json(RECORD_FILE, curve.as_record())
    write_learning_curve_page(out / PAGE_FILE, workspace.config.name, name, curve.table(), curve.charts())
    return curve
