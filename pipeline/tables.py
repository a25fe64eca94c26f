"""The table of an evaluation, for a terminal, a plain text file and a report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from mesm.pipeline.metrics import HIGHLIGHT_LEVELS, Scores

MISSING = "-"


@dataclass(frozen=True)
class MetricsTable:
    """Rows of figures under named columns; all figures are percentages."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    """(name, figures in the order of `columns`); None where a row has no such figure."""

    def cells(self) -> list[list[str]]:
        """Return each row as text: its name, then its figures."""
        return [[name, *(MISSING if f is None else f"{f:.2f}" for f in figures)] for name, figures in self.rows]


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


def render_rich(table: MetricsTable, title: str = "") -> Table:
    """Return the table for a terminal; the first row, which is ours, stands out."""
    rich = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    rich.add_column("", no_wrap=True)
    for column in table.columns:
        rich.add_column(column, justify="right", no_wrap=True)
    for number, cells in enumerate(table.cells()):
        rich.add_row(*cells, style="bold" if number == 0 else None)
    return rich


def render_text(table: MetricsTable) -> str:
    """Return the table as lines of aligned plain text."""
    lines = [["", *table.columns], *table.cells()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(_align(line, widths) for line in lines)


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    figures = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
    return "  ".join([line[0].ljust(widths[0]), *figures]).rstrip()


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
