"""Tables of figures, as text and for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from rich import box
from rich.markup import escape
from rich.table import Table

from mesm.pipeline.run.shown_text import visible

MISSING = "-"


class AnyTable(Protocol):
    """What the renderers read."""

    ours: ClassVar[int]
    """How many leading rows are ours, and stand out."""

    @property
    def unit(self) -> str:
        """Unit of the figures."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, but for that of the rows' names."""

    def cells(self) -> list[list[str]]:
        """Return each row as text: its name, then its figures."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error, None where that is not known."""

    value: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.value:.2f}" if self.error is None else f"{self.value:.2f} ± {self.error:.2f}"


Figure = float | Estimate | None


@dataclass(frozen=True)
class MetricsTable:
    """Rows of figures under named columns; all figures are percentages."""

    unit: ClassVar[str] = "per cent"
    ours: ClassVar[int] = 1
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Figure, ...]], ...]
    """(name, figures in the order of `columns`); None where a row has no such figure."""

    def cells(self) -> list[list[str]]:
        """Return each row as text: its name, then its figures."""
        return [[name, *map(_figure_text, figures)] for name, figures in self.rows]


@dataclass(frozen=True)
class TextTable:
    """Rows under named columns, as they are to be read."""

    ours: ClassVar[int] = 0
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """(name, texts in the order of `columns`)."""
    unit: str

    def cells(self) -> list[list[str]]:
        """Return each row: its name, then its texts."""
        return [[name, *texts] for name, texts in self.rows]


def _figure_text(figure: Figure) -> str:
    if figure is None:
        return MISSING
    return str(figure) if isinstance(figure, Estimate) else f"{figure:.2f}"


def render_rich(table: AnyTable, title: str = "") -> Table:
    """Return the table for a terminal; rows that are ours stand out."""
    rich = Table(title=escape(visible(title)) or None, box=box.SIMPLE_HEAD, title_justify="left")
    rich.add_column("", no_wrap=True)
    for column in table.columns:
        rich.add_column(column, justify="right", no_wrap=True)
    for number, cells in enumerate(table.cells()):
        rich.add_row(*(escape(visible(cell)) for cell in cells), style="bold" if number < table.ours else None)
    return rich


def render_text(table: AnyTable) -> str:
    """Return the table as lines of aligned plain text."""
    lines = [["", *table.columns], *table.cells()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(_align(line, widths) for line in lines)


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    figures = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
    return "  ".join([line[0].ljust(widths[0]), *figures]).rstrip()
