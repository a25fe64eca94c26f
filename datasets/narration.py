"""What a narrator says of videos: passages at times; in shards, as JSON lines, and as rows of numbers.

A record of a folder of narrations holds all passages of one video: `features` (passages, 1) float64 their times in
seconds, `text` (bytes,) uint8 their texts as UTF-8, one behind the other, and `ends` (passages,) int64 where each ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mesm.datasets.annotations.records import Problems, RecordFields, finite_number, is_unicode, read_json_lines
from mesm.datasets.errors import FeatureError

NARRATIONS = "narrations"
"""Name of the folders in shards."""
DECIMALS = 3


@dataclass(frozen=True)
class Passage:
    """What is said of one moment of a video."""

    time_s: float
    text: str
    """May be empty: the narrator had nothing to say."""


def plain_text(text: str) -> str:
    """Return a text as it is stored: control characters are spaces, what is no Unicode is a question mark."""
    shown = "".join(" " if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text)
    return shown.encode(errors="replace").decode().strip()


def to_arrays(passages: Iterable[Passage]) -> dict[str, np.ndarray]:
    """Turn the passages of a video into the arrays of its record, ordered by time."""
    ordered = sorted(passages, key=lambda passage: passage.time_s)
    texts = [plain_text(passage.text).encode() for passage in ordered]
    return {
        "features": np.array([[passage.time_s] for passage in ordered], np.float64).reshape(len(ordered), 1),
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "ends": np.cumsum([len(text) for text in texts], dtype=np.int64),
    }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> list[Passage]:
    """Read what `to_arrays` made; FeatureError when it is something else."""
    try:
        content, ends = arrays["text"].tobytes(), arrays["ends"].tolist()
        times = arrays["features"][:, 0].tolist()
        texts = [content[first:last].decode() for first, last in zip([0, *ends], ends, strict=False)]
        return [Passage(time, text) for time, text in zip(times, texts, strict=True)]
    except (KeyError, IndexError, ValueError) as error:
        raise FeatureError(f"a record of narrations is none: {error}") from error


def read_narrations(
    path: Path, durations_s: Mapping[str, float], lenient: bool = False
) -> tuple[dict[str, list[Passage]], int]:
    """Read JSON lines of `video_id`, `time_s` and `text`; returns the passages by video, and how many were left out.

    durations_s: the known videos, and how long they are; without any, every video and every time is taken. lenient:
    leave out what does not fit; otherwise AnnotationError with all of it.
    """
    problems, kept, skipped = Problems(path), dict[str, list[Passage]](), 0
    for fields in read_json_lines(path, problems):
        own = Problems(path)
        passage = _passage(RecordFields(fields.record, fields.place, own), durations_s)
        if passage is None:
            skipped += 1
            _ = None if lenient else _passage(fields, durations_s)
        else:
            kept.setdefault(passage[0], []).append(passage[1])
    problems.raise_any()
    return kept, skipped


def _passage(fields: RecordFields, durations_s: Mapping[str, float]) -> tuple[str, Passage] | None:
    """Read one line; what does not fit is noted."""
    video, time, text = fields.video_id("video_id"), fields.record.get("time_s"), fields.record.get("text")
    time_s = finite_number(time)
    fits = bool(video)
    if video and durations_s and video not in durations_s:
        fields.reject("video_id", "a video of the annotations", video)
        fits = False
    longest = durations_s.get(video)
    if time_s is None or time_s < 0 or (longest is not None and time_s > longest):
        within = "" if longest is None else f" and at most {longest:g}, the video's duration"
        fields.reject("time_s", f"seconds, at least 0{within}", time)
        fits = False
    if not isinstance(text, str) or not is_unicode(text):
        fields.reject("text", "a string", text)
        fits = False
    return (video, Passage(float(time_s), text)) if fits and time_s is not None and isinstance(text, str) else None


def narration_lines(narrations: Mapping[str, Sequence[Passage]]) -> Iterator[str]:
    """Yield the lines that `read_narrations` reads, by video and time."""
    for video, passages in narrations.items():
        for passage in passages:
            record = {"video_id": video, "time_s": passage.time_s, "text": passage.text}
            yield json.dumps(record, ensure_ascii=False)


def passages_to_rows(
    times_s: np.ndarray, vectors: Sequence[np.ndarray | None], rows: int, duration_s: float
) -> np.ndarray | None:
    """Turn the vectors of passages into one a row of a video, (rows, D) float32; None: a passage without a vector.

    Row i covers [i, i + 1] / rows of the duration, both ends included, and takes the mean of what is said there (TEA,
    equation 3); a row of which nothing is said takes the passage nearest to its middle, the earlier one of two (ours).
    Passages outside of the video count for nothing; None when none is left.
    """
    known = [i for i, v in enumerate(vectors) if v is not None and 0 <= times_s[i] <= duration_s]
    if not known:
        return None
    known.sort(key=lambda i: times_s[i])
    times = np.asarray(times_s, np.float64)[known]
    said = np.stack([np.asarray(vectors[i], np.float64) for i in known])
    edges = np.arange(rows + 1) / rows * duration_s
    first, stop = np.searchsorted(times, edges[:-1], "left"), np.searchsorted(times, edges[1:], "right")
    middles = (edges[:-1] + edges[1:]) / 2
    after = np.searchsorted(times, middles, "left").clip(max=len(times) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(times[before] - middles) <= np.abs(times[after] - middles), before, after)
    # Of passages at one time the first stands for them.
    nearest = np.searchsorted(times, times[nearest], "left")
    found = np.empty((rows, said.shape[1]))
    for row, (start, end) in enumerate(zip(first, stop, strict=True)):
        found[row] = said[start:end].mean(0) if end > start else said[nearest[row]]
    return found.astype(np.float32)
