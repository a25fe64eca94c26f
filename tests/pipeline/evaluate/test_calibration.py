"""Scores that mean something: fitted on answers whose truth is known, measured, kept with the run, and shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_training import make_corpus, train_tiny
from untrained_run import save_untrained_run

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.evaluate.reliability import (
    BINS,
    Bin,
    Calibration,
    answers_and_truth,
    expected_error,
    fit,
    measure,
    reliability_bins,
)
from mesm.pipeline.evaluate.tables import calibration_table, reliability_charts
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.ground.retriever import MomentRetriever


def drawn(temperature: float, offset: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose share of right answers is known: sigmoid(logit(score) / temperature + offset)."""
    draw = np.random.default_rng(4)
    scores = draw.beta(2, 2, count)
    return scores, draw.random(count) < Calibration(temperature, offset, 0, "", None).apply(scores)


@pytest.mark.parametrize(("temperature", "offset"), [(1.0, 0.0), (0.5, 0.7), (3.0, -1.0)])
def test_the_scale_that_scores_were_drawn_with_is_found(temperature: float, offset: float) -> None:
    scores, right = drawn(temperature, offset)
    found = fit(scores, right)
    assert found == (pytest.approx(temperature, rel=0.1), pytest.approx(offset, abs=0.06))
    assert expected_error(reliability_bins(Calibration(*found, 0, "", None).apply(scores), right)) < 0.015


@pytest.mark.parametrize("all_right", [True, False])
def test_answers_that_are_all_alike_have_a_fit(all_right: bool) -> None:
    scores = np.linspace(0.2, 0.9, 30)
    temperature, offset = fit(scores, np.full(30, all_right))
    calibrated = Calibration(temperature, offset, 30, "", None).apply(scores)
    assert np.isfinite(calibrated).all()
    assert ((calibrated > 0.85) if all_right else (calibrated < 0.15)).all()


def test_the_order_stays_and_the_ends_are_finite() -> None:
    calibrated = Calibration(2.5, -0.4, 9, "", None).apply(np.array([0.0, 1e-9, 0.3, 0.300001, 0.9, 1.0]))
    assert (np.diff(calibrated)[1:] > 0).all()
    assert (np.diff(calibrated) >= 0).all()
    assert ((calibrated >= 0) & (calibrated <= 1)).all()


def test_the_expected_error_by_hand() -> None:
    scores = np.array([0.1, 0.1, 0.95, 0.95])
    bins = reliability_bins(scores, np.array([False, True, True, True]))
    assert bins == (Bin(2, pytest.approx(0.1), 0.5), Bin(2, pytest.approx(0.95), 1.0))
    assert expected_error(bins) == pytest.approx((2 * 0.4 + 2 * 0.05) / 4)
    assert expected_error(()) == 0
    edges = np.arange(BINS + 1) / BINS
    assert sum(one.answers for one in reliability_bins(edges, edges > 0.5)) == BINS + 1


def predictions_of(rows: list[tuple[list[list[float]], list[tuple[float, float]]]]) -> tuple[list, list]:  # type: ignore[type-arg]
    predictions = [
        Prediction(n, "a", "v", np.array(windows, float).reshape(-1, 3)) for n, (windows, _) in enumerate(rows)
    ]
    annotations = [
        Annotation(
            query_id=n, video_id="v", query="a", moments=tuple(moments), duration_s=30.0, saliency=None, split="test"
        )
        for n, (_, moments) in enumerate(rows)
    ]
    return predictions, annotations


def test_an_answer_is_right_by_its_first_window_and_any_moment() -> None:
    predictions, annotations = predictions_of(
        [
            ([[0, 10, 0.9], [20, 30, 0.8]], [(20.0, 30.0)]),
            ([[0, 10, 0.7]], [(25.0, 28.0), (0.0, 5.0)]),
            ([[0, 10, 0.6]], [(0.0, 4.9)]),
            ([], [(0.0, 4.9)]),
            ([[0, 10, 0.5]], []),
        ]
    )
    scores, right = answers_and_truth(predictions, annotations)
    assert scores.tolist() == [0.9, 0.7, 0.6]
    assert right.tolist() == [False, True, False]
    assert measure(Calibration(1, 0, 1, "", None), predictions[3:], annotations[3:]) is None


def test_what_is_measured_is_in_table_and_chart() -> None:
    rows = [([[0, 10, 0.9]], [(0.0, 10.0) if n % 2 else (20.0, 30.0)]) for n in range(40)]
    measured = measure(Calibration(1e9, 0.0, 40, "", None), *predictions_of(rows))
    assert measured is not None
    assert measured.errors == (pytest.approx(0.4), pytest.approx(0.0, abs=1e-6))
    assert measured.as_record() == {"queries": 40, "ece_before": 0.4, "ece_after": 0.0}
    assert calibration_table({"test": measured}).cells() == [["test, 40 queries", "40.00", "0.00"]]
    before, after = reliability_charts("test", measured)
    assert "Right answers of test, scores as they are" in before
    assert "40 answers: 90% foretold, 50% right" in before
    assert "40 answers: 50% foretold, 50% right" in after


def moments_of(retriever: MomentRetriever) -> list[tuple[float, float, float]]:
    rows = np.random.default_rng(0).standard_normal((50, retriever.encoders[0].dim)).astype(np.float32)
    found = retriever.ground(EncodedVideo(Path("a.mp4"), 50.0, (rows,)), "a red circle").moments
    return [(moment.start_s, moment.end_s, moment.score) for moment in found]


def test_the_score_of_a_moment_is_the_calibrated_one(tmp_path: Path) -> None:
    run = save_untrained_run(tmp_path / "run", load_config("demo"))
    plain = moments_of(MomentRetriever.from_checkpoint(run))
    kept = {"temperature": 0.5, "offset": -1.0, "queries": 99, "split": "val", "epoch": None}
    (run / "calibration.json").write_text(json.dumps(kept))
    calibrated = moments_of(MomentRetriever.from_checkpoint(run))
    assert [moment[:2] for moment in calibrated] == [moment[:2] for moment in plain]
    expected = Calibration(0.5, -1.0, 99, "val", None).apply(np.array([score for *_, score in plain]))
    assert [score for *_, score in calibrated] == pytest.approx(expected.tolist(), abs=2e-4)
    (run / "calibration.json").write_text(json.dumps({**kept, "epoch": 3}))
    assert moments_of(MomentRetriever.from_checkpoint(run)) == plain, "the calibration of another epoch was taken"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"temperature": 0, "offset": 0, "queries": 1, "split": "", "epoch": null}']
)
def test_a_damaged_calibration_is_told(text: str, tmp_path: Path) -> None:
    run = save_untrained_run(tmp_path / "run", load_config("demo"))
    (run / "calibration.json").write_text(text)
    with pytest.raises(PipelineError, match=r"calibration\.json.*evaluate RUN --calibrate"):
        MomentRetriever.from_checkpoint(run)


def test_training_calibrates_and_evaluation_measures_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path / "corpus", videos=40, test_videos=6)
    run = corpus / "run"
    train_tiny(corpus, run, "train.epochs=1")
    kept = json.loads((run / "calibration.json").read_text())
    assert kept["queries"] == 20
    assert kept["split"] == "25% of the train videos (seed 0)"
    assert kept["epoch"] == 0
    (run / "calibration.json").unlink()
    train_tiny(corpus, run, "train.epochs=1")
    assert json.loads((run / "calibration.json").read_text()) == kept
    options = ["--annotations", str(corpus / "annotations"), "--features", str(corpus / "features"), "--device", "cpu"]
    assert cli.run(["evaluate", str(run), *options]) == 0
    assert "expected calibration error" in capsys.readouterr().out
    record = json.loads((run / "evaluation.json").read_text())["test"]
    measured = next(iter(record.values()))["calibration"]
    assert measured["queries"] == 12
    assert 0 <= measured["ece_after"] <= 1
    assert [name for name, scores in record.items() if "calibration" in scores] == [next(iter(record))]
    assert "What scores mean" in (run / "report.html").read_text("utf-8")
    (run / "calibration.json").unlink()
    assert cli.run(["evaluate", str(run), *options]) == 0
    assert "calibration" not in next(iter(json.loads((run / "evaluation.json").read_text())["test"].values()))
    assert cli.run(["evaluate", str(run), *options, "--calibrate"]) == 0
    again = json.loads((run / "calibration.json").read_text())
    assert again == {**kept, "temperature": pytest.approx(kept["temperature"]), "offset": pytest.approx(kept["offset"])}


def test_too_few_queries_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path / "corpus", videos=8, test_videos=2)
    run = corpus / "run"
    train_tiny(corpus, run, "train.epochs=1")
    assert not (run / "calibration.json").exists()
    assert "scores are not calibrated, as fewer than 20 queries" in capsys.readouterr().err
    options = ["--annotations", str(corpus / "annotations"), "--features", str(corpus / "features"), "--device", "cpu"]
    assert cli.run(["evaluate", str(run), *options, "--calibrate"]) == 2
    assert "scores are calibrated on 20 at least" in capsys.readouterr().err
    assert cli.run(["evaluate", "--predictions", "p.jsonl", "--annotations", "a", "--calibrate"]) == 2
