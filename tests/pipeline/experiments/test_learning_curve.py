"""A learning curve trains on nested shares, measures each once, and draws what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_training import make_corpus, tiny_config, workspace_of

from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.data.splits import training_splits
from mesm.pipeline.experiments import learning_curve as stage
from mesm.pipeline.experiments import measure as measuring
from mesm.pipeline.experiments.learning_curve import learning_curve, parse_shares


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(measuring, "ANSWERS", 3)
    return make_corpus(tmp_path)


def test_larger_shares_hold_smaller_ones_and_nothing_held_back(corpus: Path) -> None:
    taken = []
    for share in (0.3, 0.6, 1.0):
        config = tiny_config(corpus, f"dataset.train_share={share}")
        kept, held, _ = training_splits(config, corpus / "annotations")
        taken.append({a.video_id for a in kept})
        assert not taken[-1] & {a.video_id for a in held}
    assert taken[0] < taken[1] < taken[2]
    whole = len(taken[2])
    assert [len(some) for some in taken] == [round(0.3 * whole), round(0.6 * whole), whole]


def test_a_curve_is_measured_and_drawn(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, out = workspace_of(corpus, tiny_config(corpus, "train.epochs=1")), corpus / "curve"
    curve = learning_curve(workspace, [50, 100], "", out)
    assert curve.split == "test"
    queries = list(curve.points)
    assert queries == sorted(queries)
    record = json.loads((out / "learning-curve.json").read_text())
    assert [point["queries"] for point in record["points"]] == queries
    names = [name for name, _ in curve.table().rows]
    assert names == [f"{number} queries" for number in queries]
    page = (out / "learning-curve.html").read_text()
    assert page.count("<svg") >= 2
    assert all(name in page for name in names)
    monkeypatch.setattr(measuring, "load_trained", lambda *_: pytest.fail("measured again"))
    assert learning_curve(workspace, [50, 100], "", out).table() == curve.table()


def test_the_curve_command_prints_the_table(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_config(corpus)
    places = ["--annotations", str(corpus / "annotations"), "--features", str(corpus / "features")]
    config = ["--config", str(corpus / "tiny.yaml"), "--set", "train.epochs=1", "--device", "cpu"]
    assert cli.run(["learning-curve", *config, *places, "--shares", "100", "--out", str(corpus / "curve")]) == 0
    printed = capsys.readouterr().out
    assert "gap mIoU" in printed
    assert stage.RECORD_FILE in {file.name for file in (corpus / "curve").iterdir()}


@pytest.mark.parametrize("text", ["", "ten", "0,50", "50,200"])
def test_shares_are_per_cent(text: str) -> None:
    with pytest.raises(PipelineError, match="expected per cent"):
        parse_shares(text)
    assert parse_shares("50,10,50") == [10, 50]
