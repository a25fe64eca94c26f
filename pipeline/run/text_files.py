"""Text files that a reader sees complete or not at all."""

from __future__ import annotations

from pathlib import Path

from mesm.datasets.shards.publishing import replace_file


def publish_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step, its folder too; FeatureError when the disk is full or unwritable.

    Bytes of file names that are not UTF-8, as Python's strings hold them, become escapes, which JSON reads back.
    """
    content = text.encode("utf-8", "backslashreplace")
    replace_file(path, lambda temporary: temporary.write_bytes(content))
