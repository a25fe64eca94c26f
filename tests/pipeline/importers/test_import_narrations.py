"""Narrations of others: what fits is stored as it was told, what does not is named; Charades as a narrator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mesm.datasets.errors import AnnotationError
from mesm.datasets.narration import Passage, from_arrays, narration_lines, passages_to_rows, read_narrations
from mesm.pipeline.cli import run
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.importers.narrations import import_narrations, oracle_narrations

GOOD = [
    {"video_id": "a", "time_s": 2.0, "text": "later"},
    {"video_id": "a", "time_s": 0.0, "text": "A man opens a door."},
    {"video_id": "a", "time_s": 2.0, "text": "also later"},
    {"video_id": "b", "time_s": 1.5, "text": ""},
]


def write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_what_is_imported_is_exported_again(tmp_path: Path) -> None:
    folder = import_narrations(write(tmp_path / "said.jsonl", GOOD), tmp_path / "features", {"a": 3.0, "b": 1.5})
    found = {video: from_arrays(folder.read(video)) for video in folder}
    assert found["a"] == [Passage(0.0, "A man opens a door."), Passage(2.0, "later"), Passage(2.0, "also later")]
    assert found["b"] == [Passage(1.5, "")]
    again = tmp_path / "again.jsonl"
    again.write_text("".join(f"{line}\n" for line in narration_lines(found)))
    assert import_narrations(again, tmp_path / "features", {}).path == folder.path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_id": "zzz"}, "line 2: video_id: expected a video of the annotations, found 'zzz'"),
        ({"time_s": 9.0}, "line 2: time_s: expected seconds, at least 0 and at most 3, .*found 9.0"),
        ({"time_s": -1.0}, "line 2: time_s: .*found -1.0"),
        ({"time_s": float("nan")}, "line 2: time_s: .*found nan"),
        ({"time_s": "soon"}, "line 2: time_s: .*found 'soon'"),
        ({"text": 7}, "line 2: text: expected a string, found 7"),
    ],
)
def test_a_line_that_does_not_fit_is_named_or_left_out(change: dict[str, object], message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "said.jsonl", [GOOD[0], {**GOOD[1], **change}])
    durations = {"a": 3.0, "b": 1.5}
    with pytest.raises(AnnotationError, match=message):
        read_narrations(source, durations)
    found, skipped = read_narrations(source, durations, lenient=True)
    assert skipped == 1
    assert found == {"a": [Passage(2.0, "later")]}


def test_a_file_without_narrations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="holds no narration"):
        import_narrations(write(tmp_path / "said.jsonl", []), tmp_path / "features", {})


def test_actions_of_charades_are_told_second_by_second(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "Charades_v1_train.csv"
    table.write_text("id,length,actions\nA,3.2,c001 0.00 1.60;c000 1.40 9.00\nB,1.0,\n")
    classes = tmp_path / "classes.txt"
    classes.write_text("c000 Sitting on a sofa/couch\nc001 Opening a door\n")
    found = oracle_narrations(table, classes)
    assert [passage.text for passage in found["A"]] == [
        "Opening a door.",
        "Opening a door. Sitting on a sofa.",
        "Sitting on a sofa.",
        "Sitting on a sofa.",
    ]
    assert [passage.text for passage in found["B"]] == ["", ""]
    command = ["narrate", "--oracle", str(table), "--features", str(tmp_path / "features")]
    assert run([*command, "--classes", str(classes)]) == 0
    assert "upper bound" in capsys.readouterr().err
    assert run(command) == 2
    table.write_text("id,length,actions\nA,3.2,c999 0.00 1.60\n")
    with pytest.raises(AnnotationError, match="line 2: actions"):
        oracle_narrations(table, classes)


def test_rows_take_what_is_said_in_their_time_and_else_what_is_nearest() -> None:
    one, two, three = np.eye(3)
    times = np.array([0.0, 2.0, 5.0, 9.0])
    rows = passages_to_rows(times, [one, two, None, three], 4, 8.0)
    assert rows is not None
    # Both ends belong to a row; the passage at 9 s lies beyond the video, the one at 5 s has no word with a vector.
    np.testing.assert_allclose(rows, [(one + two) / 2, two, two, two])
    assert passages_to_rows(times, [None] * 4, 4, 8.0) is None
    early = passages_to_rows(np.array([1.0, 3.0]), [one, two], 1, 4.0)
    assert early is not None
    np.testing.assert_allclose(early, [(one + two) / 2])
    tied = passages_to_rows(np.array([0.0, 4.0]), [one, two], 3, 4.0)
    assert tied is not None
    np.testing.assert_allclose(tied, [one, one, two])
