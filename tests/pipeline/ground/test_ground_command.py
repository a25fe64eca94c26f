"""`ground` as typed: several films and questions, folders, an index, a picture, what is not wanted."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from colours import BLUE, GREEN, GREY, RED, ColourFrames, colour_model, write_film
from PIL import Image

from mesm.pipeline.cli import run
from mesm.pipeline.ground.zero_shot import ZeroShot


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ZeroShot, "from_model", classmethod(lambda *_, **__: colour_model()))
    monkeypatch.delenv("MESM_CHECKPOINT", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "a.mp4", (8, GREY), (6, RED), (8, GREY))
    (folder / "below").mkdir()
    write_film(folder / "below" / "b.mp4", (4, GREY), (8, BLUE), (8, RED))
    return folder


def lines(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[dict[str, object]]:
    capsys.readouterr()
    assert run(["ground", *words, "--json"]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def best(found: list[dict[str, object]]) -> dict[tuple[str, object], tuple[float, float]]:
    """The first answer to each question about each film."""
    first: dict[tuple[str, object], tuple[float, float]] = {}
    for one in found:
        first.setdefault((Path(str(one["file"])).name, one["query"]), (float(one["start_s"]), float(one["end_s"])))  # type: ignore[arg-type]
    return first


def near(span: tuple[float, float], start_s: float, end_s: float) -> bool:
    return min(span[1], end_s) - max(span[0], start_s) > 0.6 * (max(span[1], end_s) - min(span[0], start_s))


def test_folders_and_several_questions(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = best(lines(capsys, str(films), "--query", "something red", "--query", "something blue"))
    assert len(found) == 4
    assert near(found["a.mp4", "something red"], 8, 14)
    assert near(found["b.mp4", "something blue"], 4, 12)
    alone = best(lines(capsys, str(films / "a.mp4"), "something red"))
    assert alone == {("a.mp4", "something red"): found["a.mp4", "something red"]}


@pytest.mark.slow
def test_questions_from_a_file(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plain.txt").write_bytes(b"\xef\xbb\xbfsomething red\r\n\r\nsomething blue\r\n")
    Path("lines.jsonl").write_text('{"query": "something red", "id": 1}\n{"query": "something blue"}\n')
    both = [
        best(lines(capsys, str(films / "below" / "b.mp4"), "--queries", name)) for name in ("plain.txt", "lines.jsonl")
    ]
    assert both[0] == both[1]
    assert set(both[0]) == {("b.mp4", "something red"), ("b.mp4", "something blue")}


def test_many_questions_are_answered_as_one_by_one(films: Path) -> None:
    grounder = colour_model()
    video = grounder.encode_video(films / "below" / "b.mp4")
    queries = ["something red", "something blue", "a red and a blue thing"] * 50
    together = [result.moments for result in grounder.ground_many(video, queries)]
    assert together == [grounder.ground(video, query).moments for query in queries]


def test_a_picture_and_what_is_not_wanted(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64), BLUE).save("blue.png")
    film = str(films / "below" / "b.mp4")
    assert near(best(lines(capsys, film, "--image", "blue.png"))["b.mp4", "blue.png"], 4, 12)
    both = best(lines(capsys, film, "red or blue"))["b.mp4", "red or blue"]
    assert near(both, 4, 20)
    without = best(lines(capsys, film, "red or blue", "--without", "1:something blue"))
    assert near(without["b.mp4", "red or blue"], 12, 20)


@pytest.mark.slow
def test_csv_has_one_header(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ground", str(films), "something red", "--csv", "--top-k", "1"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [Path(row["file"]).name for row in rows] == ["a.mp4", "b.mp4"]


def test_a_broken_film_among_others_stops_nobody(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.mp4").write_text("no film")
    found = lines(capsys, "bad.mp4", str(films / "a.mp4"), "something red", code=1)
    assert {Path(str(one["file"])).name for one in found} == {"a.mp4"}
    assert run(["ground", "bad.mp4", "something red"]) == 2


def test_films_of_an_index_are_not_decoded(
    films: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = lines(capsys, str(films / "a.mp4"), "something red")
    assert run(["index", str(films), "--index", "ix"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(ColourFrames, "encode", lambda *_: pytest.fail("encoded again"))
        assert lines(capsys, str(films / "a.mp4"), "something red", "--index", "ix") == decoded
    write_film(Path("new.mp4"), (5, GREEN), (5, RED))
    assert near(best(lines(capsys, "new.mp4", "something red", "--index", "ix"))["new.mp4", "something red"], 5, 10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--query", "something red"], "no video"),
        (["empty", "something red"], "no video in there"),
        (["a.mp4", "--queries", "nothing.txt"], "nothing.txt"),
        (["a.mp4", "--queries", "blank.txt"], "holds no query"),
        (["a.mp4", "--queries", "bad.jsonl"], "bad.jsonl, line 2"),
        (["a.mp4", "x", "--json", "--csv"], "two formats"),
        (["a.mp4", "x", "--without", " "], "--without is empty"),
        (["a.mp4", "x", "--index", "nowhere"], "is no index"),
    ],
)
def test_wrong_use_is_one_line_and_two(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("blank.txt").write_text("\n  \n")
    Path("bad.jsonl").write_text('{"query": "x"}\n{"question": "x"}\n')
    assert run(["ground", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
