"""Narrations as files for others: JSON lines, and subtitles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pysubs2

from mesm.datasets.narration import Passage, from_arrays, narration_lines
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.shards.publishing import replace_file


def passages_of(folder: FeatureFolder, videos: Sequence[str]) -> dict[str, list[Passage]]:
    """Read the passages of those of some videos that have any."""
    return {video: from_arrays(folder.read(video)) for video in videos if video in folder}


def write_lines(path: Path, folder: FeatureFolder, videos: Sequence[str]) -> int:
    """Write JSON lines that `narrate --import` reads, and return how many."""
    lines = list(narration_lines(passages_of(folder, videos)))
    content = "".join(f"{line}\n" for line in lines)
    replace_file(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))
    return len(lines)


def write_subtitles(path: Path, passages: Sequence[Passage], duration_s: float) -> int:
    """Write passages as subtitles, each until the next one begins, and return how many.

    Neighbours that say the same are one, and a silent one is none.
    """
    file = pysubs2.SSAFile()
    ends = [*(passage.time_s for passage in passages[1:]), max(duration_s, passages[-1].time_s) if passages else 0.0]
    for passage, end in zip(passages, ends, strict=True):
        last = file.events[-1] if file.events else None
        start_ms, end_ms = round(1000 * passage.time_s), round(1000 * end)
        if last is not None and last.plaintext == passage.text and last.end == start_ms:
            last.end = end_ms
        elif passage.text and end_ms > start_ms:
            event = pysubs2.SSAEvent(start=start_ms, end=end_ms)
            event.plaintext = passage.text
            file.events.append(event)
    content = file.to_string("srt")
    replace_file(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))
    return len(file.events)
