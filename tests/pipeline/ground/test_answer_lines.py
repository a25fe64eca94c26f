"""Moments as lines: what is written comes back, whatever the file is called."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answer_lines import answer_line, answers_csv, clock, read_answer_lines
from mesm.pipeline.ground.answers import Evidence, FoundMoment


def moment(file: str = "film.mp4") -> FoundMoment:
    evidence = (Evidence("picture", 1.5), Evidence("words", 2.25, 'he says "no"\n, and goes'))
    return FoundMoment(
        Path(file), 3661.25, 3670.5, 0.75, "a <b>door</b>", "contrast", "ViT-B-32/openai", evidence, ("untrained",)
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00.000"), (59.9996, "00:01:00.000"), (3661.25, "01:01:01.250")]
)
def test_seconds_as_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    "name", ["film.mp4", "a 'b'\n\"c\".mkv", "-x.mp4", b"caf\xe9.mp4".decode("utf-8", "surrogateescape")]
)
def test_lines_come_back(tmp_path: Path, name: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(answer_line(moment(name)) + "\n\n" + answer_line(moment()) + "\n")
    found = read_answer_lines(file)
    assert found[0].file == Path(name)
    assert found[1].start_s == pytest.approx(3661.25, abs=1e-9)
    assert (found[1].evidence, found[1].notes) == (moment().evidence, moment().notes)


def test_csv_has_a_line_each_and_its_names() -> None:
    rows = list(csv.DictReader(io.StringIO(answers_csv([moment(), moment("b.mp4")]))))
    assert [row["file"] for row in rows] == ["film.mp4", "b.mp4"]
    assert rows[0]["evidence"] == "picture:1.5000;words:2.2500"


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"file": "a"}',
        '{"file": "a", "start_s": 3, "end_s": 2}',
        '{"file": "a", "start_s": 0, "end_s": NaN}',
        "[" * 9999,
    ],
)
def test_what_is_no_moment_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(answer_line(moment()) + "\n" + line + "\n")
    with pytest.raises(PipelineError, match="line 2"):
        read_answer_lines(file)
