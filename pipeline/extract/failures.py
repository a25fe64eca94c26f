"""The list of videos that could not be read, kept beside the features until a later run has read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesm.datasets.plain_text import parse_json
from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.publishing import held_alone
from mesm.pipeline.run.console import say
from mesm.pipeline.run.shown_text import json_text
from mesm.pipeline.run.text_files import publish_text

FAILURES_FILE = "failures.json"


@dataclass(frozen=True)
class Failure:
    """A video that could not be extracted."""

    video_id: str
    path: str
    """Where it lies: its file's path, or its address in object storage."""
    reason: str
    """`fetch`, `probe`, `decode`, `timeout`, `memory`, `changed during reading`, `plan` or `name`."""
    message: str


def record_failures(file: Path, failed: Sequence[Failure], read: set[str]) -> None:
    """Keep the list of failed videos: those of this run, and those of earlier runs that were not read since.

    Processes that do so at the same time wait for one another, so that none undoes what another one wrote.
    """
    if not failed and not file.exists():
        return
    with held_alone(file.parent, wait=True):
        known = {entry["video_id"]: entry for entry in read_failures(file) if entry["video_id"] not in read}
        for one in failed:
            known[one.video_id] = {
                "video_id": one.video_id,
                "path": one.path,
                "reason": one.reason,
                "message": one.message,
            }
        entries = [known[video_id] for video_id in sorted(known)]
        write_point("failures:before-write")
        publish_text(file, json_text({"failures": entries}, indent=1) + "\n")
        write_point("failures:written")


def read_failures(file: Path) -> list[dict[str, Any]]:
    """Return the entries of a failures.json: video_id, path, reason, message; none when there is no such file.

    Of a damaged one, which only lists what the next run finds again, what can be read, with a warning.
    """
    try:
        # Earlier versions wrote bytes of names that are not UTF-8 as they are.
        content = parse_json(file.read_text("utf-8", "surrogateescape"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        say(f"warning: {file} is damaged and is made anew, with the failed videos of this run: {error}")
        return []
    entries = content.get("failures") if isinstance(content, dict) else None
    found = entries if isinstance(entries, list) else []
    sound = [e for e in found if isinstance(e, dict) and isinstance(e.get("video_id"), str) and e["video_id"]]
    if not isinstance(entries, list) or len(sound) < len(found):
        say(f"warning: {file} is damaged: {len(sound)} entries of it can be read, the rest is made anew")
    return sound
