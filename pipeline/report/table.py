"""Tables of figures, as text and for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

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
