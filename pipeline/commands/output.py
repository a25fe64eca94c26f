"""What commands print, and the codes that they end with."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

OK, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def print_table(table: Any, title: str) -> None:
    """Print a table: with lines on a terminal, as plain text otherwise."""
    from mesm.pipeline.report.table import render_rich, render_text

    if sys.stdout.isatty():
        Console().print(render_rich(table, title))
    else:
        print(f"{title}\n{render_text(table)}")
