"""Questions to an index: the right film, the right seconds, and what is said of answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from colours import BLUE, GREEN, GREY, RED, ColourFrames, colour_model, write_film
from PIL import Image

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.ground.questions import Question
from mesm.pipeline.index import search as searching
from mesm.pipeline.index.build import add_files
from mesm.pipeline.index.search import Filter, generic_peak, note_generic_peak, parse_seconds, search
from mesm.pipeline.index.store import IndexStore

SRT = """1
00:00:02,000 --> 00:00:04,000
<i>Where</i> is the key?

2
00:00:04,500 --> 00:00:06,000
Under the doormat.

3
00:00:15,000 --> 00:00:17,000
The weather is nice.
"""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "red.mp4", (8, GREY), (6, RED), (8, GREY))
    write_film(folder / "blue.mp4", (4, GREY), (8, BLUE), (8, GREY))
    write_film(folder / "long.mp4", (100, GREY), (20, GREEN), (100, GREY), (7, BLUE), (40, GREY))
    write_film(folder / "said.mkv", (20, GREY), subtitles=SRT)
    return folder


@pytest.fixture(scope="module")
def index(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexStore]:
    opened = IndexStore.create_or_open(tmp_path_factory.mktemp("ix") / "index", "colours", [ColourFrames()])
    add_files(opened, [films], [ColourFrames()])
    yield opened
    opened.close()


def overlap(moment: FoundMoment, start_s: float, end_s: float) -> float:
    shared = max(0.0, min(moment.end_s, end_s) - max(moment.start_s, start_s))
    return shared / (max(moment.end_s, end_s) - min(moment.start_s, start_s))


@pytest.mark.parametrize(
    ("query", "file", "start_s", "end_s"),
    [
        ("something red", "red.mp4", 8, 14),
        ("something green", "long.mp4", 100, 120),
        ("a blue thing", "blue.mp4", 4, 12),
    ],
)
def test_the_right_seconds_of_the_right_film(
    index: IndexStore, query: str, file: str, start_s: float, end_s: float
) -> None:
    result = search(index, colour_model(), Question(query))
    assert result.moments[0].file.name == file
    assert overlap(result.moments[0], start_s, end_s) > 0.6
    assert (result.confident, result.searched, result.moments[0].score_kind) == (True, 4, "contrast")


def test_other_moments_of_the_same_kind_follow(index: IndexStore) -> None:
    moments = search(index, colour_model(), Question("a blue thing"), dedupe=False).moments
    other = next(moment for moment in moments[1:] if moment.file.name == "long.mp4")
    assert overlap(other, 220, 227) > 0.4
    scores = [moment.score for moment in moments]
    assert scores == sorted(scores, reverse=True)


def test_moments_that_look_the_same_are_one(index: IndexStore) -> None:
    every = search(index, colour_model(), Question("a blue thing"), count=3, dedupe=False)
    fewer = search(index, colour_model(), Question("a blue thing"), count=3)
    assert every.moments[0] == fewer.moments[0]
    assert (every.alike, fewer.alike.get(0, 0) >= 1) == ({}, True)


def test_a_picture_is_a_question(index: IndexStore, tmp_path: Path) -> None:
    Image.new("RGB", (90, 50), GREEN).save(tmp_path / "green.png")
    result = search(index, colour_model(), Question(picture=tmp_path / "green.png"))
    assert result.moments[0].file.name == "long.mp4"
    assert overlap(result.moments[0], 100, 120) > 0.6
    (tmp_path / "text.png").write_text("this is no picture")
    with pytest.raises(PipelineError, match="no picture"):
        search(index, colour_model(), Question(picture=tmp_path / "text.png"))
    with pytest.raises(PipelineError, match="no such file"):
        search(index, colour_model(), Question(picture=tmp_path / "nothing.png"))


def test_what_is_not_wanted_is_taken_off(index: IndexStore) -> None:
    both = search(index, colour_model(), Question("red and blue"), dedupe=False).moments
    assert {moment.file.name for moment in both[:2]} == {"red.mp4", "blue.mp4"}
    only = search(index, colour_model(), Question("red and blue", without=["2:something blue"]), dedupe=False).moments
    assert only[0].file.name == "red.mp4"
    assert not any(overlap(moment, 4, 12) > 0.5 for moment in only[:1] if moment.file.name == "blue.mp4")


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        (Filter(path="red*"), {"red.mp4"}),
        (Filter(path="*.mkv"), {"said.mkv"}),
        (Filter(shortest_s=60), {"long.mp4"}),
        (Filter(longest_s=21), {"blue.mp4", "said.mkv"}),
        (Filter(since_s=4e9), set()),
    ],
)
def test_only_admitted_files_answer(index: IndexStore, allowed: Filter, names: set[str]) -> None:
    result = search(index, colour_model(), Question("something red"), allowed=allowed)
    assert {moment.file.name for moment in result.moments} <= names
    assert result.searched == len(names)
    assert bool(result.moments) == bool(names)


def test_words_of_a_track_are_found_and_joined(index: IndexStore) -> None:
    result = search(index, colour_model(), Question("is the key under a doormat"))
    said = next(moment for moment in result.moments if moment.file.name == "said.mkv")
    words = next(one for one in said.evidence if one.kind == "words")
    assert "Where is the key? Under the doormat." in words.text
    assert said.score_kind == "fused"
    assert overlap(said, 2, 6) > 0.9 or any(one.kind == "picture" for one in said.evidence)


def test_words_that_say_little_find_nothing(index: IndexStore) -> None:
    moments = search(index, colour_model(), Question("the red ship is sinking")).moments
    assert not [one for moment in moments for one in moment.evidence if one.kind == "words"]


def test_nothing_like_it_is_no_confident_match(index: IndexStore) -> None:
    result = search(index, colour_model(), Question("some sentence about nothing here"))
    assert result.moments
    assert not result.confident


def test_what_generic_sentences_reach_is_kept(index: IndexStore, monkeypatch: pytest.MonkeyPatch) -> None:
    found = generic_peak(index, colour_model())
    note_generic_peak(index, colour_model())
    monkeypatch.setattr(searching, "_peak", lambda *_: pytest.fail("computed again"))
    assert generic_peak(index, colour_model()) == found


def test_answers_of_lost_and_changed_files_are_marked(films: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(films, tmp_path / "films", ignore=lambda *_: ["long.mp4", "said.mkv"]))
    opened = IndexStore.create_or_open(tmp_path / "index", "colours", [ColourFrames()])
    add_files(opened, [place], [ColourFrames()])
    os.utime(place / "blue.mp4", (1, 1))
    (place / "red.mp4").unlink()
    notes = {m.file.name: m.notes for m in search(opened, colour_model(), Question("red, blue")).moments}
    assert notes == {"red.mp4": ("missing",), "blue.mp4": ("changed",)}
    shutil.copy(films / "red.mp4", place / "copy.mp4")
    add_files(opened, [place], [ColourFrames()])
    best = search(opened, colour_model(), Question("something red")).moments[0]
    assert (best.file.name, best.notes) == ("copy.mp4", ())
    opened.close()


def test_long_questions_are_cut_and_empty_ones_refused(index: IndexStore) -> None:
    result = search(index, colour_model(), Question("something red " + "and so on " * 500))
    assert result.words_cut
    assert "query cut" in result.moments[0].notes
    with pytest.raises(PipelineError, match="empty"):
        search(index, colour_model(), Question("  "))


def test_an_empty_index_answers_nothing(tmp_path: Path) -> None:
    opened = IndexStore.create_or_open(tmp_path / "index", "colours", [ColourFrames()])
    result = search(opened, colour_model(), Question("something red"))
    assert (result.moments, result.confident, result.searched) == ([], False, 0)


@pytest.mark.slow
def test_scores_do_not_depend_on_shards(index: IndexStore, films: Path, tmp_path: Path) -> None:
    other = IndexStore.create_or_open(tmp_path / "index", "colours", [ColourFrames()])
    for name in ("said.mkv", "blue.mp4", "red.mp4", "long.mp4"):
        add_files(other, [films / name], [ColourFrames()])

    def found(store: IndexStore) -> list[tuple[Path, float, float, float]]:
        moments = search(store, colour_model(), Question("something blue"), dedupe=False).moments
        return [(moment.file, moment.start_s, moment.end_s, round(moment.score, 4)) for moment in moments]

    before = found(index)
    assert found(other) == before
    assert other.folder.compact() == 3
    assert found(other) == before
    other.close()
    opened = IndexStore.open(tmp_path / "index")
    assert found(opened) == before
    assert np.allclose(opened.matrix.mean(), index.matrix.mean())


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1:30", 90), ("1:02:03.5", 3723.5)])
def test_times_of_options(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--longer") == seconds


@pytest.mark.parametrize("text", ["x", "1:2:3:4", "-1", "nan", "1e99"])
def test_wrong_times_name_the_option(text: str) -> None:
    with pytest.raises(PipelineError, match="--longer"):
        parse_seconds(text, "--longer")
