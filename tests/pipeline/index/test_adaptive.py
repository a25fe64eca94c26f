"""Indexes without rows that look like the one before: fewer rows, the same seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from colours import BLUE, GREY, RED, ColourFrames, colour_model, write_film

from mesm.pipeline.cli import run
from mesm.pipeline.ground.questions import Question
from mesm.pipeline.ground.zero_shot import ZeroShot
from mesm.pipeline.index.adaptive import AdaptiveEncoder, every_row, kept_rows
from mesm.pipeline.index.search import search
from mesm.pipeline.index.video_index import VideoIndex


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "a.mp4", (8, GREY), (6, RED), (8, GREY))
    write_film(folder / "b.mp4", (6, BLUE), (14, GREY))
    write_film(folder / "c.mp4", (40, GREY), (9, RED), (20, GREY))
    return folder


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ZeroShot, "from_model", classmethod(lambda *_, **__: colour_model()))


def test_a_row_is_kept_when_it_differs_from_the_last_kept_one() -> None:
    turns = np.deg2rad([0, 3, 6, 9, 30, 31, 32, 33, 34, 35])
    rows = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float16)
    assert kept_rows(rows, float(np.cos(np.deg2rad(5.5))), 100).tolist() == [0, 2, 4]
    assert kept_rows(rows, float(np.cos(np.deg2rad(5.5))), 3).tolist() == [0, 2, 4, 7]
    assert kept_rows(rows, -1.0, 4).tolist() == [0, 4, 8]
    assert kept_rows(rows, 1.1, 4).tolist() == list(range(10))
    assert kept_rows(np.zeros((1, 2)), 0.97, 10).tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_stored_has_a_row_for_every_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.cumsum(rng.normal(size=(200, 8)), axis=0).astype(np.float32)
    stored = AdaptiveEncoder(ColourFrames()).thinned(rows)
    whole = every_row(stored)
    assert whole.shape == rows.shape
    assert 1 < len(stored["features"]) < len(rows)
    assert stored["lasts"].max() <= 10
    cosines = (whole * rows).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(rows, axis=1)
    assert cosines.min() >= 0.97 - 1e-6
    assert every_row({"features": rows}) is rows


def test_the_same_seconds_are_found_in_fewer_rows(films: Path, tmp_path: Path) -> None:
    whole, fewer = VideoIndex.open(tmp_path / "whole"), VideoIndex.open(tmp_path / "fewer", adaptive=True)
    whole.add([films])
    report = fewer.add([films])
    assert (report.rows, len(fewer.store.matrix)) == (111, 111)
    assert report.stored == 3 + 3 + 4 + 1 + 2
    assert fewer.store.catalogue.counts()["rows"] == report.stored
    np.testing.assert_allclose(fewer.store.matrix.mean(), whole.store.matrix.mean(), atol=2e-3)
    for query in ("something red", "something blue"):
        one, other = (search(index.store, colour_model(), Question(query)) for index in (whole, fewer))
        assert [(m.file, m.start_s, m.end_s) for m in one.moments] == [
            (m.file, m.start_s, m.end_s) for m in other.moments
        ]
        np.testing.assert_allclose([m.score for m in one.moments], [m.score for m in other.moments], atol=0.02)
    curves = [index.ground(index.encode_video(films / "c.mp4"), "something red").saliency for index in (whole, fewer)]
    assert curves[1].shape == (69,)
    np.testing.assert_allclose(curves[0], curves[1], atol=0.01)
    fewer.store.folder.compact()
    assert len(VideoIndex.open(tmp_path / "fewer").store.matrix) == 111


@pytest.mark.slow
def test_adaptive_as_typed(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "ix")
    assert run(["index", str(films / "a.mp4"), "--index", place, "--adaptive"]) == 0
    assert "3 of 22 seconds stored (14%)" in capsys.readouterr().err
    assert run(["index", str(films / "b.mp4"), "--index", place, "--stats", "--json"]) == 0
    report, stats = (json.loads(part) for part in capsys.readouterr().out.replace("}\n{", "}\0{").split("\0"))
    assert (report["rows"], report["stored"]) == (20, 3)
    assert (stats["adaptive"], stats["rows"]) == (True, 6)
    assert json.loads((tmp_path / "ix" / "index.json").read_text())["format"] == 2
    assert run(["search", "something red", "--index", place, "--json", "--top-k", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["file"].endswith("a.mp4")


def test_an_index_of_every_row_stays_one(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "ix")
    assert run(["index", str(films / "a.mp4"), "--index", place]) == 0
    assert run(["index", str(films / "b.mp4"), "--index", place, "--adaptive"]) == 2
    assert "keeps every row" in " ".join(capsys.readouterr().err.split())
    assert run(["index", str(films / "b.mp4"), "--index", place, "--adaptive", "--checkpoint", "nowhere"]) == 2
    assert "reads all of them" in " ".join(capsys.readouterr().err.split())
