"""Text files that a reader sees complete or not at all."""

from __future__ import annotations

from pathlib import Path

from mesm.datasets.shards.publishing import replace_file


def publish_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step, its folder too; FeatureError when the disk is full or unwritable."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    replace_file(path, write)
