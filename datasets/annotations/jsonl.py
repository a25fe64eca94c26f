"""Reader of a user's own annotations: one JSON object per line.

```
{"query_id": 0, "video_id": "kitchen", "query": "a man opens the fridge", "moments": [[3.2, 7.5]]}
{"query_id": 1, "video_id": "kitchen", "query": "he drinks", "moments": [[9, 11], [14, 15]], "duration_s": 31}
```

| field | value |
|---|---|
| `query_id` | integer or string, unique in the file |
| `video_id` | the video's file name without its ending, relative to the folder of videos |
| `query` | the sentence |
| `moments` | one or more `[start, end]` in seconds, 0 <= start < end |
| `duration_s` | optional: the video's duration; a start must lie before it, an end beyond it is cut |
| `saliency` | optional: `{"clip_ids": [...], "scores": [[4, 3, 4], ...], "clip_len_s": 2}`, see `Saliency` |
| `split` | optional: the split that the query belongs to; given for every line of a file or for none |

A split is read from `<split>.jsonl`, or else from `annotations.jsonl`, whose lines name their splits. Other
fields are kept out, but one that looks like a misspelling of a field above is an error.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from mesm.datasets.annotations.records import (
    ANNOTATIONS_FOLDER,
    Annotation,
    Problems,
    RecordFields,
    Saliency,
    Window,
    find_file,
    read_json_lines,
)
from mesm.datasets.errors import AnnotationError

FIELDS = ("query_id", "video_id", "query", "moments", "duration_s", "saliency", "split")
SHARED_FILE = "annotations.jsonl"

# Names that other formats use for the same thing.
OTHER_NAMES = {
    "qid": "query_id",
    "vid": "video_id",
    "video": "video_id",
    "sentence": "query",
    "text": "query",
    "windows": "moments",
    "relevant_windows": "moments",
    "timestamps": "moments",
    "duration": "duration_s",
    "saliency_scores": "saliency",
}


def read_jsonl(root: Path, split: str) -> list[Annotation]:
    """Read one split of a user's annotations; `root` is a folder or one file in the layout above.

    Raises AnnotationError that lists every malformed line with its number, the field and what was expected.
    """
    path = _find(root, split)
    problems = Problems(path)
    records = [(fields, _read_record(fields, split)) for fields in read_json_lines(path, problems)]
    names_splits = any("split" in fields.record for fields, _ in records)
    first_line: dict[int | str, str] = {}
    for fields, annotation in records:
        if annotation.query_id in first_line and "query_id" in fields.record:
            expected = f"an id that no other line has (see {first_line[annotation.query_id]})"
            fields.reject("query_id", expected, annotation.query_id)
        first_line.setdefault(annotation.query_id, fields.place)
        if names_splits and "split" not in fields.record:
            fields.reject("split", "a split's name, as on other lines of this file", "no such field")
    problems.raise_any()
    return [annotation for _, annotation in records if annotation.split == split]


def _find(root: Path, split: str) -> Path:
    for folder in (root, root / ANNOTATIONS_FOLDER):
        if (folder / SHARED_FILE).is_file() and not (folder / f"{split}.jsonl").is_file():
            return folder / SHARED_FILE
    if not split or Path(split).name != split:
        raise AnnotationError(f"expected a split's name such as train or val, found {split!r}")
    return find_file(root, f"{split}.jsonl")


def _read_record(fields: RecordFields, split: str) -> Annotation:
    _reject_misspellings(fields)
    duration = fields.positive_number("duration_s") if fields.record.get("duration_s") is not None else None
    return Annotation(
        query_id=fields.identifier("query_id"),
        video_id=fields.video_id("video_id"),
        query=fields.text("query"),
        moments=_cut_to_duration(fields, fields.windows("moments"), duration),
        duration_s=duration,
        saliency=_read_saliency(fields) if fields.record.get("saliency") is not None else None,
        split=fields.text("split") if "split" in fields.record else split,
    )


def _cut_to_duration(fields: RecordFields, windows: tuple[Window, ...], duration: float | None) -> tuple[Window, ...]:
    if duration is None:
        return windows
    fields.require_starts_within("moments", windows, duration)
    return tuple((start, min(end, duration)) for start, end in windows)


def _read_saliency(fields: RecordFields) -> Saliency | None:
    value = fields.record["saliency"]
    if not isinstance(value, dict):
        fields.reject("saliency", "an object with clip_ids and scores", value)
        return None
    inner = RecordFields(value, f"{fields.place}: saliency", fields.problems)
    saliency = inner.saliency("clip_ids", "scores")
    clip_len = inner.positive_number("clip_len_s") if "clip_len_s" in value else 2.0
    return None if saliency is None else Saliency(saliency.clip_ids, saliency.scores, clip_len)


def _reject_misspellings(fields: RecordFields) -> None:
    """Note unknown fields that probably mean one of ours which this record lacks."""
    for name in fields.record:
        if name in FIELDS:
            continue
        close = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.8)
        meant = OTHER_NAMES.get(name, close[0] if close else None)
        if meant is not None and meant not in fields.record:
            fields.reject(name, f"the name {meant}", fields.record[name])
