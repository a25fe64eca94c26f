"""An index asked by a network: alone, after the search without training, and what does not go together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from colours import BLUE, GREY, RED, ColourFrames, colour_model, write_film
from untrained_run import save_untrained_run

from mesm.pipeline.cli import run
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.ground.answers import GroundingResult, Moment
from mesm.pipeline.ground.questions import Question
from mesm.pipeline.ground.retriever import MomentRetriever
from mesm.pipeline.ground.zero_shot import ZeroShot
from mesm.pipeline.index.build import add_files
from mesm.pipeline.index.network_search import look_again, search_by_network
from mesm.pipeline.index.search import Filter, search
from mesm.pipeline.index.store import IndexStore


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "red.mp4", (8, GREY), (6, RED), (8, GREY))
    write_film(folder / "blue.mp4", (4, GREY), (8, BLUE), (8, GREY))
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained_run(tmp_path_factory.mktemp("run"), load_config("demo"))


@pytest.fixture(scope="module")
def retriever(run_folder: Path) -> MomentRetriever:
    return MomentRetriever.from_checkpoint(run_folder)


@pytest.fixture(scope="module")
def index(films: Path, retriever: MomentRetriever, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexStore]:
    place = tmp_path_factory.mktemp("ix") / "index"
    store = IndexStore.create_or_open(place, retriever.model, retriever.encoders, network=True)
    assert add_files(store, [films], retriever.encoders).encoded == 2
    yield store
    store.close()


class Sure:
    """A network that is as sure of each film, and whose saliency alone tells them apart."""

    def __init__(self, retriever: MomentRetriever) -> None:
        self.real = retriever

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    def ground(self, video: object, query: str, top_k: int) -> GroundingResult:
        rows = video.rows  # type: ignore[attr-defined]
        saliency = np.zeros(rows, np.float32)
        if "red" in str(video.path):  # type: ignore[attr-defined]
            saliency[8:14] = 1
        row_s = video.row_s  # type: ignore[attr-defined]
        return GroundingResult(query, [Moment(8 * row_s, 14 * row_s, 0.9)], saliency, row_s, False)


def test_films_are_told_apart_by_their_salient_rows(index: IndexStore, retriever: MomentRetriever) -> None:
    result = search_by_network(index, Sure(retriever), Question("a door opens"), 5)  # type: ignore[arg-type]
    assert [moment.file.name for moment in result.moments] == ["red.mp4", "blue.mp4"]
    assert [moment.evidence[0].score for moment in result.moments] == [0.9, 0.9]
    assert result.moments[0].score > 2 * result.moments[1].score


def test_a_network_answers_as_it_does_for_each_film(index: IndexStore, retriever: MomentRetriever) -> None:
    result = search_by_network(index, retriever, Question("a door opens"), 20)
    assert result.searched == 2
    scores = [moment.score for moment in result.moments]
    assert scores == sorted(scores, reverse=True)
    for file in {moment.file for moment in result.moments}:
        alone = retriever.ground(retriever.encode_video(file), "a door opens").moments
        spans = np.array([(moment.start_s, moment.end_s) for moment in alone])
        for moment in result.moments:
            if moment.file == file:
                assert np.abs(spans - (moment.start_s, moment.end_s)).max(1).min() < 0.001
    only = search_by_network(index, retriever, Question("a door opens"), 20, Filter(path="blue*"))
    assert {moment.file.name for moment in only.moments} == {"blue.mp4"}


def test_a_network_looks_again_at_what_a_search_found(films: Path, retriever: MomentRetriever, tmp_path: Path) -> None:
    store = IndexStore.create_or_open(tmp_path / "index", "colours", [ColourFrames()])
    add_files(store, [films], [ColourFrames()])
    first = search(store, colour_model(), Question("something red"))
    result = look_again(store, retriever, Question("something red"), first, 3)
    assert {one.kind for moment in result.moments for one in moment.evidence} == {"network", "picture"}
    assert {moment.score_kind for moment in result.moments} == {"salient"}
    assert len(result.moments) == len(result.thumbnails) <= 3
    store.close()


def test_what_does_not_go_together_is_refused(
    index: IndexStore, retriever: MomentRetriever, films: Path, tmp_path: Path
) -> None:
    with pytest.raises(PipelineError, match="made for the network"):
        search(index, colour_model(), Question("something red"))
    with pytest.raises(PipelineError, match="ask without a run"):
        search_by_network(index, retriever, Question("something red", without=["x"]), 5)
    with pytest.raises(PipelineError, match="empty"):
        search_by_network(index, retriever, Question(" "), 5)
    other = IndexStore.create_or_open(tmp_path / "index", "colours", [ColourFrames()])
    with pytest.raises(PipelineError, match="reads other vectors"):
        search_by_network(other, retriever, Question("something red"), 5)
    other.close()


@pytest.mark.slow
def test_index_and_search_with_a_run_as_typed(
    films: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--index", "ix", "--checkpoint", str(run_folder), "--device", "cpu"]
    assert run(["index", str(films), *given]) == 0
    assert run(["search", "a door opens", *given, "--json", "--srt", "found.srt"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["model"] for line in lines} == {str(run_folder)}
    assert list(tmp_path.glob("*.srt"))
    assert run(["search", "a door opens", "--index", "ix"]) == 2
    assert "give its run by --checkpoint" in " ".join(capsys.readouterr().err.split())
    assert run(["index", str(films), *given, "--model", "ViT-B-32/openai"]) == 2
    monkeypatch.setattr(ZeroShot, "from_model", classmethod(lambda *_, **__: colour_model()))
    assert run(["index", str(films), "--index", "other"]) == 0
    assert run(["search", "something red", *given[2:], "--index", "other", "--json"]) == 0
    assert "network" in capsys.readouterr().out
