"""A third look at what was found: a verdict as evidence, times and order as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colours import GREY, RED, colour_model, write_film
from tiny_llava import save_llava

from mesm.extractors.verification import Verdict, Verifier
from mesm.pipeline.cli import run
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.ground.zero_shot import ZeroShot
from mesm.pipeline.index.verifying import FRAMES, LONGEST_SIDE, MOMENTS, frames_of, verified


class Reddish:
    """Says yes to red pictures."""

    name, prompt_hash = "reddish", "0" * 12

    def __init__(self) -> None:
        self.shown: list[int] = []

    def verify(self, query: str, pictures: list[np.ndarray]) -> Verdict:
        self.shown.append(len(pictures))
        colour = np.mean([picture.mean((0, 1)) for picture in pictures], axis=0)
        return Verdict(0.9 if colour[0] > 1.5 * colour[1] else 0.2)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("films") / "a.mp4", (8, GREY), (6, RED), (8, GREY))


def moment(file: Path, start_s: float, end_s: float) -> FoundMoment:
    return FoundMoment(file, start_s, end_s, 1.0, "something red", "contrast", "colours")


def test_a_verdict_is_evidence_and_changes_nothing_else(film: Path, tmp_path: Path) -> None:
    asked = [moment(film, 0, 7.5), moment(film, 8.5, 13.5), moment(tmp_path / "gone.mp4", 0, 5)]
    found = verified(asked, Reddish())
    assert [[(one.kind, one.score) for one in each.evidence] for each in found] == [
        [("refuted", 0.2)],
        [("verified", 0.9)],
        [],
    ]
    assert found[1].method["verify"] == {"model": "reddish", "prompt": "0" * 12, "frames": 8, "probability": 0.9}
    assert [replace(one, evidence=(), method={}) for one in found] == asked


def test_no_more_moments_and_frames_are_looked_at_than_said(film: Path) -> None:
    verifier = Reddish()
    found = verified([moment(film, 0, 22)] * (MOMENTS + 3), verifier)
    assert verifier.shown == [FRAMES] * MOMENTS
    assert [bool(one.evidence) for one in found] == [True] * MOMENTS + [False] * 3
    assert len(frames_of(moment(film, 3.01, 3.19))) < FRAMES


def test_frames_are_those_of_the_moment_and_small(tmp_path: Path, film: Path) -> None:
    pictures = frames_of(moment(film, 6.0, 10.0))
    red = [picture[..., 0].mean() > 1.5 * picture[..., 1].mean() for picture in pictures]
    assert red == [False] * 4 + [True] * 4
    assert max(pictures[0].shape) <= LONGEST_SIDE


def test_a_film_that_broke_keeps_its_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    asked = [moment(tmp_path / "text.mp4", 0, 5)]
    assert verified(asked, Reddish()) == asked
    assert "is not verified" in capsys.readouterr().err


def test_verify_as_typed(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ZeroShot, "from_model", classmethod(lambda *_, **__: colour_model()))
    place, llava = str(tmp_path / "ix"), str(save_llava(tmp_path / "llava"))
    assert run(["index", str(film), "--index", place]) == 0
    words = ["search", "something red", "--index", place, "--top-k", "2"]
    capsys.readouterr()
    assert run([*words, "--json"]) == 0
    before = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert run([*words, "--json", "--verify", llava]) == 0
    after = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["start_s"], one["end_s"], one["score"]) for one in before] == [
        (one["start_s"], one["end_s"], one["score"]) for one in after
    ]
    verifier = Verifier.from_model(llava)
    assert after[0]["method"]["verify"]["prompt"] == verifier.prompt_hash
    assert after[0]["method"]["verify"]["model"] == verifier.name
    assert after[0]["evidence"][1]["kind"] in ("verified", "refuted")
    assert run([*words, "--verify", llava]) == 0
    assert "%)" in capsys.readouterr().out
    assert run(["search", "--image", "x.png", "--index", place, "--verify", llava]) == 2
    assert "--verify asks about a sentence" in " ".join(capsys.readouterr().err.split())
