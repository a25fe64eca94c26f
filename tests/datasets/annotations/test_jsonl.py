from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mesm.datasets.annotations.records import Annotation, Saliency
from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.errors import AnnotationError

RECORD: dict[str, Any] = {
    "query_id": 0,
    "video_id": "kitchen",
    "query": "a man opens the fridge",
    "moments": [[3.2, 7.5]],
}


def write(folder: Path, *records: object, name: str = "train.jsonl") -> Path:
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def error_of(folder: Path, *records: object) -> str:
    with pytest.raises(AnnotationError) as caught:
        read_annotations("jsonl", write(folder, *records), "train")
    return str(caught.value)


def test_reads_what_the_documentation_shows(tmp_path: Path) -> None:
    second = {**RECORD, "query_id": "b", "moments": [[9, 11], [14, 40]], "duration_s": 31.4, "camera": "left"}
    saliency = {"clip_ids": [1, 2], "scores": [[4, 3], [0, 1]], "clip_len_s": 4}
    third = {**RECORD, "query_id": 2, "video_id": "day 1/küche", "saliency": saliency, "duration_s": None}
    annotations = read_annotations("jsonl", write(tmp_path, RECORD, second, "", third), "train")
    assert annotations[0] == Annotation(0, "kitchen", "a man opens the fridge", ((3.2, 7.5),), None, None, "train")
    assert annotations[1].moments == ((9.0, 11.0), (14.0, 31.4))
    assert annotations[2].saliency == Saliency((1, 2), ((4.0, 3.0), (0.0, 1.0)), 4.0)


def test_one_file_may_hold_several_splits(tmp_path: Path) -> None:
    records = [{**RECORD, "query_id": number, "split": split} for number, split in enumerate(("train", "val", "train"))]
    write(tmp_path, *records, name="annotations.jsonl")
    assert [annotation.query_id for annotation in read_annotations("jsonl", tmp_path, "train")] == [0, 2]
    assert [annotation.query_id for annotation in read_annotations("jsonl", tmp_path, "val")] == [1]
    with pytest.raises(AnnotationError, match="found none"):
        read_annotations("jsonl", tmp_path, "test")


def test_root_may_be_the_file_itself(tmp_path: Path) -> None:
    write(tmp_path, RECORD, name="anything.txt")
    (annotation,) = read_annotations("jsonl", tmp_path / "anything.txt", "holiday")
    assert annotation.split == "holiday"


def test_all_malformed_lines_are_reported_at_once_with_number_field_and_expectation(tmp_path: Path) -> None:
    message = error_of(
        tmp_path,
        RECORD,
        "{not json",
        "[]",
        {**RECORD, "query_id": 1.5, "query": ""},
        {**RECORD, "query_id": 5, "moments": []},
        {**RECORD, "query_id": 6, "moments": [[5, 5], [1, "2"]]},
        {**RECORD, "query_id": 7, "moments": [[30, 40]], "duration_s": 30},
        {**RECORD, "query_id": 8, "duration_s": -1},
        {**RECORD, "query_id": 0},
        {**RECORD, "query_id": 10, "saliency": [1]},
        {**RECORD, "query_id": 11, "saliency": {"clip_ids": [0, 0], "scores": [[1], [2]]}},
        {key: value for key, value in RECORD.items() if key not in ("query", "query_id")},
    )
    assert message.startswith("14 problems")
    for place in (
        "line 2: expected one JSON object",
        "line 3: expected one JSON object",
        "line 4: query_id: expected an integer or a non-empty string, found 1.5",
        "line 4: query: expected a non-empty string, found ''",
        "line 5: moments: expected a non-empty list of [start, end]",
        "line 6: moments[0]: expected [start, end] in seconds with 0 <= start < end, found [5, 5]",
        "line 6: moments[1]",
        "line 7: moments: expected a start before the duration of 30.0 s",
        "line 8: duration_s: expected a number above 0, found -1",
        "line 9: query_id: expected an id that no other line has (see line 1), found 0",
        "line 10: saliency",
        "line 11: saliency: clip_ids: expected distinct clip numbers",
        "line 12: query: expected a non-empty string, found no such field (there are: moments, video_id)",
    ):
        assert place in message
    assert message.count(str(tmp_path / "train.jsonl")) == 15


@pytest.mark.parametrize(
    ("found", "meant"),
    [
        ("vid", "video_id"),
        ("duration", "duration_s"),
        ("momments", "moments"),
        ("relevant_windows", "moments"),
    ],
)
def test_misspelt_fields_are_named(tmp_path: Path, found: str, meant: str) -> None:
    record = {key: value for key, value in RECORD.items() if key != meant}
    assert f"line 1: {found}: expected the name {meant}" in error_of(tmp_path, {**record, found: 1})


@pytest.mark.parametrize(
    "video_id", ["../etc/passwd", "/etc/passwd", "a/../../b", "C\\..\\b", "a\x00b", "a\nb", "\ud800"]
)
def test_video_ids_cannot_lead_outside_their_folder(tmp_path: Path, video_id: str) -> None:
    assert "line 1: video_id" in error_of(tmp_path, {**RECORD, "video_id": video_id})


@pytest.mark.parametrize("value", ["1e999", "NaN", "1" + "0" * 400, "true", "[" * 100_000, "9" * 5000])
def test_hostile_numbers_are_reported(tmp_path: Path, value: str) -> None:
    line = json.dumps(RECORD).replace("7.5", value)
    assert "line 2" in error_of(tmp_path, RECORD, line)


def test_a_file_names_a_split_on_every_line_or_on_none(tmp_path: Path) -> None:
    message = error_of(tmp_path, {**RECORD, "split": "train"}, {**RECORD, "query_id": 1})
    assert "line 2: split: expected a split's name, as on other lines" in message


def test_long_lists_of_problems_are_cut(tmp_path: Path) -> None:
    message = error_of(tmp_path, *["{"] * 1000)
    assert message.startswith("1000 problems")
    assert message.endswith("... and 800 more")
    assert len(message.splitlines()) == 202


def test_line_separators_inside_strings_do_not_split_records(tmp_path: Path) -> None:
    write(tmp_path, json.dumps({**RECORD, "query": "a\u2028b"}, ensure_ascii=False))
    assert read_annotations("jsonl", tmp_path, "train")[0].query == "a\u2028b"


def test_split_names_cannot_lead_outside_the_folder(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="split's name"):
        read_annotations("jsonl", tmp_path, "../train")
