"""Predictions in the submission format of QVHighlights, for every dataset: one JSON object a line.

```
{"qid": 1, "query": "a man opens the fridge", "vid": "kitchen",
 "pred_relevant_windows": [[3.2, 7.5, 0.91]], "pred_saliency_scores": [-0.2, 0.7, 0.1]}
```
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mesm.datasets.plain_text import parse_json, read_plain_text
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.text_files import publish_text

SHOWN_PROBLEMS = 50
LARGEST_TIME_S = 1e9
"""Thirty years: beyond it, lengths of windows come near to numbers that are none."""


class PredictionError(PipelineError):
    """A predictions file is missing or malformed; lists everything that is wrong at once."""


@dataclass(frozen=True)
class Prediction:
    """What a model answers to one query."""

    query_id: int | str
    query: str
    video_id: str
    windows: np.ndarray
    """(n, 3) float64: start s, end s, score; best first."""
    saliency: np.ndarray | None = None
    """(clips,) float64: relevance of each clip, in no particular unit."""

    def as_record(self) -> dict[str, Any]:
        """Return the line of the submission format; an absent saliency stays out."""
        record: dict[str, Any] = {
            "qid": self.query_id,
            "query": self.query,
            "vid": self.video_id,
            "pred_relevant_windows": self.windows.tolist(),
        }
        if self.saliency is not None:
            record["pred_saliency_scores"] = self.saliency.tolist()
        return record


def save_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions, one a line; the file appears under its name when it is complete."""
    publish_text(path, "".join(json.dumps(prediction.as_record()) + "\n" for prediction in predictions))


def load_predictions(path: Path) -> list[Prediction]:
    """Read a predictions file; blank lines are skipped.

    Raises PredictionError with the file, line, field, what was expected and what was found, for all malformed
    lines together.
    """
    try:
        lines = read_plain_text(path).split("\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PredictionError(f"{path}: expected a file of predictions, one JSON object a line: {reason}") from error
    problems: list[str] = []
    predictions: list[Prediction] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        prediction, mistakes = _read_line(line)
        if prediction is not None:
            earlier = first_line.setdefault(str(prediction.query_id), number)
            if earlier != number:
                mistakes = [
                    f"qid: expected an id that no earlier line has, found {prediction.query_id!r} again "
                    f"(line {earlier})"
                ]
            predictions.append(prediction)
        problems += [f"{path}:{number}: {mistake}" for mistake in mistakes]
    if not predictions and not problems:
        problems.append(f"{path}: expected one prediction a line, found an empty file")
    _raise_all(path, problems)
    return predictions


def _raise_all(path: Path, problems: list[str]) -> None:
    if not problems:
        return
    shown = problems[:SHOWN_PROBLEMS]
    if len(problems) > len(shown):
        shown.append(f"... and {len(problems) - len(shown)} more")
    noun = "problem" if len(problems) == 1 else "problems"
    raise PredictionError(f"{len(problems)} {noun} in the predictions {path}:\n" + "\n".join(shown))


def _read_line(line: str) -> tuple[Prediction | None, list[str]]:
    """Return the prediction, or None and what is wrong with the line."""
    try:
        record = parse_json(line)
    except ValueError as error:
        return None, [f"expected one JSON object, found no valid JSON ({error})"]
    if not isinstance(record, dict):
        return None, [f"expected one JSON object, found {_shorten(record)}"]
    mistakes: list[str] = []
    query_id = record.get("qid")
    if isinstance(query_id, bool) or not isinstance(query_id, (int, str)):
        mistakes.append(f"qid: expected an integer or a string, found {_found(record, 'qid')}")
    windows = _read_numbers(record.get("pred_relevant_windows"), 2)
    if windows is None or (windows.size and windows.shape[1] != 3):
        found = _found(record, "pred_relevant_windows")
        mistakes.append(f"pred_relevant_windows: expected a list of [start s, end s, score], found {found}")
    elif windows.size and np.abs(windows[:, :2]).max() > LARGEST_TIME_S:
        mistakes.append(f"pred_relevant_windows: expected seconds, found {_shorten(windows.max().item())}")
    elif windows.size and (backwards := windows[:, 1] < windows[:, 0]).any():
        found = _shorten(windows[backwards][0].tolist())
        mistakes.append(f"pred_relevant_windows: expected windows that end after their start, found {found}")
    saliency = None
    if record.get("pred_saliency_scores") is not None:
        saliency = _read_numbers(record["pred_saliency_scores"], 1)
        if saliency is None:
            found = _found(record, "pred_saliency_scores")
            mistakes.append(f"pred_saliency_scores: expected a list of numbers, found {found}")
    if mistakes or windows is None or query_id is None:
        return None, mistakes
    text, video_id = str(record.get("query", "")), str(record.get("vid", ""))
    return Prediction(query_id, text, video_id, windows.reshape(-1, 3), saliency), []


def _read_numbers(value: Any, dimensions: int) -> np.ndarray | None:
    """Return a (nested) list of finite numbers as float64, empty lists included; None for anything else."""
    if not isinstance(value, list):
        return None
    if not value:
        return np.zeros((0, 3) if dimensions == 2 else 0)
    try:
        numbers = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    if numbers.ndim != dimensions or numbers.dtype.kind not in "if" or not np.isfinite(numbers).all():
        return None
    return numbers.astype(np.float64)


def _found(record: Mapping[str, Any], field: str) -> str:
    return _shorten(record[field]) if field in record else "no such field"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
