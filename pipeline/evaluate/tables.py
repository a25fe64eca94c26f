"""Scores as tables."""

from __future__ import annotations

from collections.abc import Mapping

from mesm.pipeline.evaluate.grounding_gap import GroundingGap
from mesm.pipeline.evaluate.metrics import HIGHLIGHT_LEVELS, Scores
from mesm.pipeline.evaluate.reliability import Reliability
from mesm.pipeline.report.charts import share_chart
from mesm.pipeline.report.table import Figure, MetricsTable


def metrics_table(scores: Mapping[str, Scores], gap: GroundingGap | None = None) -> MetricsTable:
    """Set several evaluations of the same queries side by side: what to call it -> its scores.

    gap: of the first of them, in columns of its own.
    """
    figures = {name: _figures(entry) for name, entry in scores.items()}
    if gap is not None:
        next(iter(figures.values())).update({f"gap {name}": one for name, one in gap.gaps.items()})
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


def reliability_charts(split: str, measured: Reliability) -> list[str]:
    """Draw the share of right answers over the score, as it is and calibrated."""
    forms = {"scores as they are": measured.before, "calibrated": measured.after}
    return [
        share_chart(f"Right answers of {split}, {name}", "score", [(one.score, one.right, one.answers) for one in bins])
        for name, bins in forms.items()
    ]


def _figures(scores: Scores) -> dict[str, Figure]:
    full = scores.full
    figures: dict[str, Figure] = {
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
