"""The list of failed videos: always readable, never the end of a run, and nothing is lost when two write at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesm.pipeline import cli
from mesm.pipeline.extract.failures import FAILURES_FILE, Failure, read_failures, record_failures
from mesm.pipeline.extract.stage import describe_failures

ODD_NAMES = [
    os.fsdecode(b"caf\xe9"),
    "quo\"te's",
    "two\nlines",
    "-rf",
    "\N{RIGHT-TO-LEFT OVERRIDE}4pm",
    "\x1b]0;owned\x07\x1b[31m",
    "\x85\x9b31m",
    "a" * 240,
    "[bold red]x[/]:warning:",
]


def failure(name: str) -> Failure:
    return Failure(name, f"videos/{name}.mp4", "probe", f"{name}.mp4 is no video")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_comes_back(tmp_path: Path, name: str) -> None:
    file = tmp_path / FAILURES_FILE
    record_failures(file, [failure(name)], set())
    assert json.loads(file.read_bytes().decode("utf-8"))["failures"][0]["video_id"] == name
    assert [entry["video_id"] for entry in read_failures(file)] == [name]
    record_failures(file, [], {name})
    assert read_failures(file) == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_failed_video_is_one_line_that_acts_on_nothing(name: str) -> None:
    (line,) = describe_failures([failure(name)], [], Path("features"))
    assert line.isprintable()
    line.encode("utf-8")
    (line,) = describe_failures([], [name], Path("features"))
    assert line.isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'["nothing"]',
        b'{"failures": 1}',
        b'{"failures": [1, {}, {"video_id": 3}]}',
        b"[" * 100_000,
        bytes(range(256)),
        b"\xff\xfe{\x00",
    ],
)
def test_a_damaged_list_is_a_warning_and_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    file = tmp_path / FAILURES_FILE
    file.write_bytes(content)
    assert read_failures(file) == []
    assert "warning:" in capsys.readouterr().err
    record_failures(file, [failure("a")], set())
    assert [entry["video_id"] for entry in read_failures(file)] == ["a"]


def test_what_is_sound_of_a_damaged_list_is_kept(tmp_path: Path) -> None:
    file = tmp_path / FAILURES_FILE
    file.write_text(json.dumps({"failures": [{"video_id": "a", "path": "x"}, 7]}))
    record_failures(file, [failure("b")], set())
    assert [entry["video_id"] for entry in read_failures(file)] == ["a", "b"]


def test_a_list_of_earlier_versions_with_raw_bytes_is_read(tmp_path: Path) -> None:
    file = tmp_path / FAILURES_FILE
    file.write_bytes(b'{"failures": [{"video_id": "caf\xe9"}]}')
    assert [entry["video_id"] for entry in read_failures(file)] == [os.fsdecode(b"caf\xe9")]


RECORD = """
import sys
from pathlib import Path
from mesm.pipeline.extract.failures import Failure, record_failures
for number in range(20):
    record_failures(Path(sys.argv[1]), [Failure(f"{sys.argv[2]}{number}", "x", "probe", "x")], set())
"""


def test_processes_that_note_failures_at_once_lose_none(tmp_path: Path) -> None:
    file = tmp_path / FAILURES_FILE
    command = [sys.executable, "-c", RECORD, str(file)]
    writers = [subprocess.Popen([*command, who]) for who in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(read_failures(file)) == 40


def test_extract_twice_with_a_name_that_is_not_utf_8(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    videos, features = tmp_path / "videos", tmp_path / "features"
    videos.mkdir()
    for name in (os.fsdecode(b"caf\xe9.mp4"), "two\nlines.mp4", "\x1b[31m.mp4"):
        (videos / name).write_bytes(b"no video")
    arguments = ["extract", "--videos", str(videos), "-c", "demo", "--features", str(features), "--json"]
    for _ in range(2):
        assert cli.run(arguments) == 1
        shown = capfd.readouterr()
        assert len(json.loads(shown.out)["failed"]) == 3
        assert not {"\x1b", "\udce9"} & set(shown.out + shown.err)
        assert len([line for line in shown.err.splitlines() if line.startswith("failed:")]) == 3
        assert len(json.loads((features / FAILURES_FILE).read_bytes().decode())["failures"]) == 3
