"""`index` and `search` as typed: output, notes, codes."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from colours import BLUE, GREY, RED, colour_model, write_film

from mesm.pipeline.cli import run
from mesm.pipeline.ground.answer_lines import read_answer_lines
from mesm.pipeline.ground.zero_shot import ZeroShot


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Answer by colours, whatever model is asked for, in a folder of its own."""
    monkeypatch.setattr(ZeroShot, "from_model", classmethod(lambda *_, **__: colour_model()))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "a red one.mp4", (8, GREY), (6, RED), (8, GREY))
    write_film(folder / "blue.mp4", (4, GREY), (8, BLUE), (8, GREY))
    return folder


@pytest.fixture
def made(films: Path) -> Path:
    assert run(["index", str(films), "--index", "ix"]) == 0
    return Path("ix")


def test_index_then_search(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", str(films), "--index", "ix"]) == 0
    assert "2 films encoded" in capsys.readouterr().err
    assert run(["search", "something red", "--index", "ix", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    best = lines[0]
    assert best["file"] == str(films / "a red one.mp4")
    assert (best["query"], best["model"], best["score_kind"]) == ("something red", "colours", "contrast")
    assert best["start"] == f"00:00:{best['start_s']:06.3f}"
    assert [one["kind"] for one in best["evidence"]] == ["picture"]
    assert run(["search", "something red", "--index", "ix", "--csv", "--top-k", "1"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["start_s"]) == best["start_s"]
    assert run(["search", "something red", "--index", "ix"]) == 0
    assert "a red one.mp4" in capsys.readouterr().out.splitlines()[0]


def test_list_stats_and_remove(films: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", "--index", "ix", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run(["index", "--index", "ix", "--remove", str(films / "blue.mp4"), "--list", "--json"]) == 0
    assert [one["file"] for one in json.loads(capsys.readouterr().out)] == [str(films / "a red one.mp4")]
    assert run(["index", "--index", "ix", "--remove", "nowhere.mp4"]) == 1
    assert run(["index", "--index", "ix", "--stats", "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert (stats["films"], stats["rows"], stats["model"], stats["broken"]) == (1, 22, "colours", [])
    assert run(["index", "--index", "ix", "--stats"]) == 0
    assert "films        1" in capsys.readouterr().out


def test_broken_files_end_with_one(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad\x1b[31m.mp4").write_text("no film")
    assert run(["index", str(films), "bad\x1b[31m.mp4", "--index", "ix"]) == 1
    assert "failed: " in (shown := capsys.readouterr().err)
    assert "2 films encoded" in shown
    assert run(["index", "--index", "ix", "--stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["broken"][0]["file"].endswith("bad\x1b[31m.mp4")


def test_names_are_shown_without_control_characters(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.link(films / "blue.mp4", "x\x1b[31m\n\u202e.mp4")
    assert run(["index", "x\x1b[31m\n\u202e.mp4", "--index", "ix"]) == 0
    for words in (["index", "--index", "ix", "--list"], ["search", "something blue", "--index", "ix", "--top-k", "1"]):
        assert run(words) == 0
        shown = capsys.readouterr().out
        assert len(shown.splitlines()) == 1
        assert not {"\x1b", "\u202e"} & set(shown)


def test_names_of_every_kind_come_back_as_they_were(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["-x.mp4", "a \"b\" 'c'.mp4", "new\nline.mp4", os.fsdecode(b"caf\xe9.mp4"), "%s {0} $HOME;.mp4"]
    Path("odd").mkdir()
    for number, name in enumerate(names):
        write_film(Path("odd") / name, (4 + number, GREY), (8, BLUE), (8, GREY))
    os.chdir("odd")
    assert run(["index", "--index", "ix", ".", "--", "-x.mp4"]) == 0
    capsys.readouterr()
    assert run(["search", "something blue", "--index", "ix", "--no-dedupe", "--json"]) == 0
    Path("answers.jsonl").write_text(capsys.readouterr().out)
    found = {moment.file for moment in read_answer_lines(Path("answers.jsonl"))}
    assert found == {Path.cwd() / name for name in names}
    assert all(file.exists() for file in found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "x", "--index", "nowhere"], "is no index; make one by: mesm-pipeline index"),
        (["search", "  ", "--index", "ix"], "query is empty"),
        (["search", "--image", "y.png", "--index", "ix"], "y.png: expected a picture"),
        (["search", "x", "--without", " ", "--index", "ix"], "--without is empty"),
        (["search", "x", "--json", "--csv", "--index", "ix"], "two formats"),
        (["search", "x", "--since", "yesterday", "--index", "ix"], "--since yesterday: expected a date"),
        (["search", "x", "--longer", "long", "--index", "ix"], "--longer long: expected seconds"),
        (["index", "--index", "ix"], "nothing to do"),
        (["index", "nowhere.mp4", "--index", "ix"], "no such thing"),
    ],
)
def test_wrong_use_is_one_line_and_two(
    words: list[str], said: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(words) == 2
    shown = capsys.readouterr().err
    assert said in " ".join(shown.split())


def test_filters_that_admit_nothing_are_said(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["search", "something red", "--index", "ix", "--path", "*.avi"]) == 0
    assert "no film of ix is searched" in capsys.readouterr().err
