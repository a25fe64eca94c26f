"""Reader of QVHighlights: one JSON object per line, with several windows and each clip's saliency."""

from __future__ import annotations

from pathlib import Path

from mesm.datasets.annotations.records import Annotation, Problems, RecordFields, find_file, read_json_lines

FILES = {
    "train": "highlight_train_release.jsonl",
    "val": "highlight_val_release.jsonl",
    "test": "highlight_test_with_gt.jsonl",
}


def read_qvhighlights(root: Path, split: str) -> list[Annotation]:
    """Read one split; `root` may be the folder of the files or one file in this layout.

    The windows are left as they are; one that begins when the video has ended is an error. `relevant_clip_ids` with
    `saliency_scores` may be absent, together.
    """
    path = find_file(root, FILES[split])
    problems = Problems(path)
    annotations = []
    seen: set[int | str] = set()
    for fields in read_json_lines(path, problems):
        annotation = _read_record(fields, split)
        if annotation.query_id in seen:
            fields.reject("qid", "an id that no earlier line has", annotation.query_id)
        seen.add(annotation.query_id)
        annotations.append(annotation)
    problems.raise_any()
    return annotations


def _read_record(fields: RecordFields, split: str) -> Annotation:
    has_saliency = "relevant_clip_ids" in fields.record or "saliency_scores" in fields.record
    moments, duration = fields.windows("relevant_windows"), fields.positive_number("duration")
    fields.require_starts_within("relevant_windows", moments, duration)
    return Annotation(
        query_id=fields.identifier("qid"),
        video_id=fields.video_id("vid"),
        query=fields.text("query"),
        moments=moments,
        duration_s=duration,
        saliency=fields.saliency("relevant_clip_ids", "saliency_scores") if has_saliency else None,
        split=split,
    )
