"""Moments as lines of JSON and as CSV: what `ground` and `search` print, and what cutting and showing read.

A line is one moment: `file`, `start_s` and `end_s` (seconds), `start` and `end` (hh:mm:ss.mmm), `score`, `score_kind`,
`query`, `model`, `evidence` (a list of kind, score and text), `notes` and, in JSON, `method`. Text is ASCII with
escapes, so that a file name that is no valid Unicode comes back as it was.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mesm.datasets.plain_text import parse_json, read_plain_text
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answers import Evidence, FoundMoment

COLUMNS = ("file", "start_s", "end_s", "start", "end", "score", "score_kind", "query", "model", "evidence", "notes")


def clock(seconds: float) -> str:
    """Write seconds as hh:mm:ss.mmm."""
    thousandths = round(seconds * 1000)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def answer_record(moment: FoundMoment) -> dict[str, Any]:
    """Return what a line says."""
    return {
        "file": str(moment.file),
        "start_s": round(moment.start_s, 3),
        "end_s": round(moment.end_s, 3),
        "start": clock(moment.start_s),
        "end": clock(moment.end_s),
        "score": round(moment.score, 4),
        "score_kind": moment.score_kind,
        "query": moment.query,
        "model": moment.model,
        "evidence": [
            {"kind": one.kind, "score": round(one.score, 4), **({"text": one.text} if one.text else {})}
            for one in moment.evidence
        ],
        "notes": list(moment.notes),
        "method": dict(moment.method),
    }


def answer_line(moment: FoundMoment) -> str:
    """Return one line of JSON, without its end."""
    return json.dumps(answer_record(moment))


def answers_csv(moments: Iterable[FoundMoment], header: bool = True) -> str:
    """Return CSV, one moment a line; evidence as `kind:score`, joined by semicolons, as notes are."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    for moment in moments:
        record = answer_record(moment)
        del record["method"]
        record["evidence"] = ";".join(f"{one.kind}:{one.score:.4f}" for one in moment.evidence)
        writer.writerow({**record, "notes": ";".join(moment.notes)})
    return text.getvalue()


def read_answer_lines(path: Path) -> list[FoundMoment]:
    """Read lines of JSON back; PipelineError names the file and the line that is none of ours."""
    try:
        lines = read_plain_text(path).split("\n")
    except ValueError as error:
        raise PipelineError(f"{path}: {error}; lines of JSON are what ground --json prints") from error
    return [_read_line(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _read_line(line: str, place: str) -> FoundMoment:
    try:
        record = parse_json(line)
        found = FoundMoment(
            Path(record["file"]),
            float(record["start_s"]),
            float(record["end_s"]),
            float(record.get("score", 0.0)),
            str(record.get("query", "")),
            str(record.get("score_kind", "")),
            str(record.get("model", "")),
            tuple(
                Evidence(str(one["kind"]), float(one["score"]), str(one.get("text", "")))
                for one in record.get("evidence", [])
            ),
            tuple(map(str, record.get("notes", []))),
            dict(record.get("method", {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{place}: expected one moment as JSON with file, start_s and end_s ({type(error).__name__}: {error})"
        ) from error
    if not (math.isfinite(found.start_s) and math.isfinite(found.end_s) and 0 <= found.start_s < found.end_s):
        raise PipelineError(f"{place}: a moment from {found.start_s} s to {found.end_s} s cannot be")
    return found
