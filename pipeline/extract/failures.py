"""The list of videos that could not be read, kept beside the features until a later run has read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesm.datasets.shards.faults import write_point
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.text_files import publish_text

FAILURES_FILE = "failures.json"


@dataclass(frozen=True)
class Failure:
    """A video that could not be extracted."""

    video_id: str
    path: Path
    reason: str
    """`probe`, `decode`, `timeout`, `memory`, `changed during reading`, `plan` or `name`."""
    message: str


def record_failures(file: Path, failed: Sequence[Failure], read: set[str]) -> None:
    """Keep the list of failed videos: those of this run, and those of earlier runs that were not read since."""
    known = {entry["video_id"]: entry for entry in read_failures(file) if entry["video_id"] not in read}
    for one in failed:
        known[one.video_id] = {
            "video_id": one.video_id,
            "path": str(one.path),
            "reason": one.reason,
            "message": one.message,
        }
    if not known and not file.exists():
        return
    entries = [known[video_id] for video_id in sorted(known)]
    text = json.dumps({"failures": entries}, indent=1, ensure_ascii=False)
    write_point("failures:before-write")
    publish_text(file, f"{text}\n")
    write_point("failures:written")


def read_failures(file: Path) -> list[dict[str, Any]]:
    """Return the entries of a failures.json: video_id, path, reason, message; none when there is no such file.

    Raises PipelineError when it is damaged.
    """
    try:
        entries: list[dict[str, Any]] = json.loads(file.read_text("utf-8", "surrogateescape"))["failures"]
        return [entry for entry in entries if entry["video_id"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{file} is damaged ({error}); delete it, it only lists failed videos") from error
