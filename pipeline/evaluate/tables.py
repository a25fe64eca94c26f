"""Scores as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesm.pipeline.evaluate.metrics import HIGHLIGHT_LEVELS, Scores
from mesm.pipeline.evaluate.reliability import Bin, Reliability
from mesm.pipeline.report.charts import line_chart
from mesm.pipeline.report.table import MetricsTable


def metrics_table(scores: Mapping[str, Scores]) -> MetricsTable:
    """Set several evaluations of the same queries side by side: what to call it -> its scores."""
    figures = {name: _figures(entry) for name, entry in scores.items()}
    columns = tuple(dict.fromkeys(column for row in figures.values() for column in row))
    rows = [(name, tuple(row.get(column) for column in columns)) for name, row in figures.items()]
    return MetricsTable(columns, tuple(rows))


def length_table(scores: Scores) -> MetricsTable:
    """Set the length ranges of one evaluation, which have moments, side by side."""
    columns = (*_moment_columns(scores), "mIoU", "mAP avg")
    rows = []
    for name, moments in scores.moments.items():
        if moments is not None:
            recalls = [moments.r1[threshold] for threshold in _shown_thresholds(scores)]
            rows.append((f"{name}, {moments.queries} queries", (*recalls, moments.miou, moments.ap_average)))
    return MetricsTable(columns, tuple(rows))


def calibration_table(measured: Mapping[str, Reliability]) -> MetricsTable:
    """Set the expected calibration errors of splits side by side, in per cent, over BINS bins."""
    rows = [
        (f"{split}, {one.queries} queries", tuple(100 * error for error in one.errors))
        for split, one in measured.items()
    ]
    return MetricsTable(("scores as they are", "calibrated"), tuple(rows))


def reliability_chart(split: str, measured: Reliability) -> str:
    """Draw the share of right answers over the score, as it is and calibrated; the diagonal is what it should be."""

    def points(bins: Sequence[Bin]) -> list[tuple[float, float]]:
        return [(100 * one.score, 100 * one.right) for one in bins]

    curves = {"as they are": points(measured.before), "calibrated": points(measured.after)}
    title = f"Right answers of {split}, per cent, by score"
    return line_chart(title, "score, per cent", {"ideal": [(0.0, 0.0), (100.0, 100.0)], **curves})


def _figures(scores: Scores) -> dict[str, float | None]:
    full = scores.full
    figures: dict[str, float | None] = {
        column: full.r1[threshold]
        for column, threshold in zip(_moment_columns(scores), _shown_thresholds(scores), strict=True)
    }
    figures["mIoU"] = full.miou
    figures |= {f"mAP@{t:g}": full.ap[t] for t in (0.5, 0.75) if t in full.ap}
    figures["mAP avg"] = full.ap_average
    for level in HIGHLIGHT_LEVELS:
        if scores.highlights is not None:
            figures[f"HL mAP {level}"] = scores.highlights[level].ap
            figures[f"HIT@1 {level}"] = scores.highlights[level].hit1
    return figures


def _shown_thresholds(scores: Scores) -> list[float]:
    return [threshold for threshold in (0.1, 0.3, 0.5, 0.7) if threshold in scores.full.r1]


def _moment_columns(scores: Scores) -> list[str]:
    return [f"R1@{threshold:g}" for threshold in _shown_thresholds(scores)]
