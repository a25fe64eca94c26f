"""Words that a network hears: kept a window at a time, gone on with after a stop, found as any words are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from colours import ColourFrames, colour_model
from tiny_whisper import save_whisper, write_sound

from mesm.extractors.errors import DecodeError
from mesm.extractors.speech import Said, Transcriber
from mesm.pipeline.cli import run
from mesm.pipeline.ground.questions import Question
from mesm.pipeline.ground.zero_shot import ZeroShot
from mesm.pipeline.index.build import add_files, remove
from mesm.pipeline.index.search import search
from mesm.pipeline.index.store import IndexStore
from mesm.pipeline.index.transcripts import transcribe_films

SRT = "1\n00:00:02,000 --> 00:00:04,000\nwritten words\n"


class Known:
    """Hears what it is told, in three windows."""

    def __init__(self, name: str = "known 1", stops: int = 9) -> None:
        self.name, self.windows, self._stops = name, 0, stops

    def transcribe(self, film: Path, from_s: float = 0.0) -> Iterator[tuple[list[Said], float]]:
        for number, text in enumerate(["where is the key", "under the doormat", "goodbye"]):
            if number * 30.0 < from_s:
                continue
            if self.windows == self._stops:
                raise DecodeError("torn")
            self.windows += 1
            yield [Said(number * 30.0 + 2, number * 30.0 + 6, text)], number * 30.0 + 30


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_sound(folder / "talk.mkv", (40, 440))
    write_sound(folder / "other.mkv", (5, 440))
    (folder / "other.srt").write_text(SRT)
    return folder


@pytest.fixture
def index(films: Path, tmp_path: Path) -> Iterator[IndexStore]:
    opened = IndexStore.create_or_open(tmp_path / "ix", "colours", [ColourFrames()])
    add_files(opened, [films], [ColourFrames()])
    yield opened
    opened.close()


def heard(index: IndexStore) -> list[tuple[float, str]]:
    return [
        (cue.start_s, cue.text)
        for film in index.catalogue.films()
        for cue in index.catalogue.cues(film)
        if cue.source.startswith("transcribed by ")
    ]


def test_films_without_subtitles_are_heard_once(index: IndexStore, films: Path) -> None:
    network = Known()
    report = transcribe_films(index, [films], network)
    assert (report.films, report.cues, network.windows) == (1, 2, 3)
    # What is said after the film's end was invented.
    assert heard(index) == [(2.0, "where is the key"), (32.0, "under the doormat")]
    again = transcribe_films(index, [films], Known())
    assert (again.films, again.cues) == (0, 0)
    found = search(index, colour_model(), Question("under the doormat")).moments
    said = next(one for moment in found for one in moment.evidence if one.kind != "picture")
    assert (said.kind, said.text) == ("spoken, transcribed", "under the doormat")
    written = search(index, colour_model(), Question("written words")).moments
    assert {one.kind for moment in written for one in moment.evidence} == {"picture", "words"}


def test_a_run_that_stopped_goes_on_where_it_was(index: IndexStore, films: Path) -> None:
    report = transcribe_films(index, [films], Known(stops=1))
    assert [path.name for path, _ in report.failed] == ["talk.mkv"]
    assert heard(index) == [(2.0, "where is the key")]
    network = Known()
    assert transcribe_films(index, [films], network).films == 1
    assert network.windows == 2
    assert [text for _, text in heard(index)] == ["where is the key", "under the doormat"]


def test_another_network_hears_anew_and_subtitles_come_first(index: IndexStore, films: Path) -> None:
    transcribe_films(index, [films], Known())
    before = heard(index)
    assert transcribe_films(index, [films], Known("known 2")).films == 1
    assert heard(index) == before
    assert remove(index, films / "talk.mkv") == 1
    assert heard(index) == []
    add_files(index, [films], [ColourFrames()])
    assert transcribe_films(index, [films / "talk.mkv"], Known("known 2")).films == 1
    subtitles = films / "talk.srt"
    subtitles.write_text(SRT)
    add_files(index, [films], [ColourFrames()])
    assert heard(index) == []
    subtitles.unlink()
    add_files(index, [films], [ColourFrames()])
    assert transcribe_films(index, [films], Known("known 2")).films == 1


def test_transcribe_as_typed(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ZeroShot, "from_model", classmethod(lambda *_, **__: colour_model()))
    place, whisper = str(tmp_path / "ix"), str(save_whisper(tmp_path / "whisper"))
    assert run(["index", str(films), "--index", place, "--transcribe", whisper]) == 0
    assert "1 films heard" in capsys.readouterr().err
    opened = IndexStore.open(tmp_path / "ix")
    cues = [cue for film in opened.catalogue.films() for cue in opened.catalogue.cues(film)]
    source = f"transcribed by {Transcriber.from_model(whisper).name}"
    assert {cue.source for cue in cues} == {source, "other.srt"}
    assert all(0 <= cue.start_s < cue.end_s <= 40.1 for cue in cues)
    opened.close()
    assert run(["index", "--index", place, "--transcribe", whisper]) == 2
    assert "--transcribe hears the films of files" in " ".join(capsys.readouterr().err.split())
    assert run(["index", str(films), "--index", place, "--transcribe", whisper, "--checkpoint", "nowhere"]) == 2
    assert "--transcribe finds words" in " ".join(capsys.readouterr().err.split())
    other = tmp_path / "other"
    assert run(["index", str(films), "--index", str(other), "--transcribe", str(tmp_path / "nowhere")]) == 2
    assert not other.exists()
    assert "could not be had from the hub" in " ".join(capsys.readouterr().err.split())
    assert run(["index", "--index", place, "--stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cues"] == len(cues)
