"""The page of a comparison of networks: its tables, what a reader must know, and each network's own settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mesm.pipeline.report.page import render
from mesm.pipeline.report.table import TextTable
from mesm.pipeline.run.text_files import publish_text


def write_comparison_page(
    path: Path,
    facts: Mapping[str, str],
    notes: Sequence[str],
    tables: Mapping[str, TextTable],
    settings: Mapping[str, Any],
) -> None:
    """Write the page; FeatureError when that is impossible.

    facts: the conditions in short, by what they are; notes: sentences below the tables; tables: by split; settings:
    of each network, what it does not share with the others.
    """
    texts = {name: json.dumps(own, indent=1, ensure_ascii=False) for name, own in settings.items()}
    publish_text(path, render("comparison.html.j2", facts=facts, notes=notes, tables=tables, settings=texts))
