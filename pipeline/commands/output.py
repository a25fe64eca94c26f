"""What commands print, and the codes that they end with."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

from mesm.pipeline.run.shown_text import json_text, visible

OK, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def show(text: object) -> None:
    """Print a result; what names in it would do to a terminal is written as an escape."""
    print(visible(str(text)))


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json_text(value, indent=1))


def print_table(table: Any, title: str) -> None:
    """Print a table: with lines on a terminal, as plain text otherwise."""
    from mesm.pipeline.report.table import render_rich, render_text

    if sys.stdout.isatty():
        Console().print(render_rich(table, title))
    else:
        show(f"{title}\n{render_text(table)}")
