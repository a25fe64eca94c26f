"""The grounding gap is the figure minus its mean over exchanges of videos; its error is that of drawing videos anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import make_corpus, queries_of, train_tiny

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline.evaluate.controls import answers_with, control_scores, mean_scores, other_sentences
from mesm.pipeline.evaluate.grounding_gap import EXCHANGES, bootstrap_error, first_overlaps, grounding_gap
from mesm.pipeline.evaluate.metrics import evaluate_predictions
from mesm.pipeline.evaluate.predict import predict, protocol_of
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.evaluate.stage import evaluate
from mesm.pipeline.evaluate.trained import TrainedModel, load_evaluation_data, load_trained

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"))
    train_tiny(folder, folder / "run")
    return folder


def asked(query_id: int, video: str, *moments: tuple[float, float], query: str = "somebody moves") -> Annotation:
    return Annotation(query_id, video, query, moments, 10.0, None, "test")


def answered(query_id: int, video: str, *windows: tuple[float, float]) -> Prediction:
    rows = np.array([(*window, 1.0) for window in windows]).reshape(-1, 3)
    return Prediction(query_id, "somebody moves", video, rows)


def test_first_windows_are_held_against_the_best_moment() -> None:
    truth = [asked(0, "a", (0, 4), (6, 10)), asked(1, "a"), asked(2, "b", (2, 4))]
    answers = [answered(0, "a", (6, 8), (0, 4)), answered(1, "a", (0, 1)), answered(2, "b")]
    np.testing.assert_array_equal(first_overlaps(answers, truth), [0.5, np.nan, 0.0])


def test_a_gap_is_the_figure_minus_its_mean_over_exchanges() -> None:
    right, others = np.array([0.6, 0.4, np.nan, 1.0]), np.array([[0.5, 0.0, np.nan, 0.0], [0.1, 0.2, np.nan, 0.6]])
    gap = grounding_gap(right, others, ["a", "a", "b", "c"])
    assert (gap.queries, gap.exchanges) == (3, 2)
    assert gap.gaps["R1@0.5"].value == pytest.approx(100 * (2 / 3 - (1 / 3 + 1 / 3) / 2))
    assert gap.gaps["mIoU"].value == pytest.approx(100 * (2.0 - (0.5 + 0.9) / 2) / 3)
    assert json.loads(json.dumps(gap.as_record()))["mIoU"]["gap"] == round(gap.gaps["mIoU"].value, 2)


def test_answers_without_looking_have_no_gap() -> None:
    right = np.random.default_rng(0).random(40)
    gap = grounding_gap(right, np.tile(right, (EXCHANGES, 1)), [str(i // 2) for i in range(40)])
    assert {(one.value, one.error) for one in gap.gaps.values()} == {(0.0, 0.0)}


def test_the_error_is_that_of_the_mean_over_videos() -> None:
    generator = np.random.default_rng(1)
    of_video = generator.normal(0, 10, 400)
    single = bootstrap_error(of_video, np.arange(400))
    assert single == pytest.approx(of_video.std() / 20, rel=0.1)
    # The same figure said five times a video is not known better.
    assert bootstrap_error(of_video.repeat(5), np.arange(400).repeat(5)) == pytest.approx(single)
    assert bootstrap_error(of_video, np.zeros(400, np.int64)) is None


def test_other_sentences_are_of_the_same_video_and_say_something_else() -> None:
    said = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "x"), ("c", "x"), ("c", "x")]
    queries = [asked(i, video, query=query) for i, (video, query) in enumerate(said)]
    assert other_sentences(queries) == [2, 2, 0, 3, 4, 5]


def opened(corpus: Path) -> tuple[TrainedModel, list[Annotation]]:
    return load_trained(corpus / "run", CPU), queries_of(corpus, "test")


def test_controls_hold_eight_exchanges_and_their_mean(corpus: Path) -> None:
    trained, queries = opened(corpus)
    data = load_evaluation_data(trained, queries, corpus / "features")
    answers = predict(trained.network, data, trained.config)
    found = control_scores(trained, data, answers)
    others = [answers_with(data.frames.exchanged(i), trained, data) for i in range(EXCHANGES)]
    protocol = protocol_of(trained.config)
    assert found.other_video == [evaluate_predictions(one, queries, protocol) for one in others]
    mean = found.rows()["with another video"]
    assert mean.full.miou == pytest.approx(np.mean([one.full.miou for one in found.other_video]))
    own = evaluate_predictions(answers, queries, protocol)
    assert found.gap is not None
    assert found.gap.gaps["mIoU"].value == pytest.approx(own.full.miou - mean.full.miou)
    assert found.gap.gaps["R1@0.5"].value == pytest.approx(own.full.r1[0.5] - mean.full.r1[0.5])
    assert mean_scores([own, own]) == own


def test_another_sentence_gets_the_answers_to_that_sentence(corpus: Path) -> None:
    trained, queries = opened(corpus)
    data = load_evaluation_data(trained, queries, corpus / "features")
    places = other_sentences(queries)
    assert all(queries[i].query != query.query for i, query in zip(places, queries, strict=True))
    plain = predict(trained.network, data, trained.config)
    swapped = predict(trained.network, data.with_sentences(places), trained.config)
    for i, one in zip(places, swapped, strict=True):
        np.testing.assert_allclose(one.windows, plain[i].windows, atol=2e-4)
    assert [one.query_id for one in swapped] == [query.query_id for query in queries]
    assert control_scores(trained, data, plain).rows()["with another sentence"].queries == len(queries)


def test_a_lone_video_has_no_gap(corpus: Path) -> None:
    trained, queries = opened(corpus)
    lone = [query for query in queries if query.video_id == queries[0].video_id]
    data = load_evaluation_data(trained, lone, corpus / "features")
    found = control_scores(trained, data, predict(trained.network, data, trained.config))
    assert (found.gap, list(found.rows())) == (None, ["without the video", "with another sentence"])


def test_evaluation_writes_the_gap_to_record_and_page(corpus: Path) -> None:
    place, features = corpus / "annotations", corpus / "features"
    (result,) = evaluate(corpus / "run", place, features, ["test"], CPU, published=False, controls=True)
    assert result.gap is not None
    record = json.loads((corpus / "run" / "evaluation.json").read_text())["test"]
    assert next(iter(record.values()))["grounding_gap"] == result.gap.as_record()
    page = (corpus / "run" / "report.html").read_text()
    assert str(result.gap.gaps["mIoU"]) in page
    assert "gap mIoU" in page
    assert f"{EXCHANGES} exchanges" in page


def test_the_frames_of_the_gap_are_those_of_the_exchange(corpus: Path) -> None:
    trained, queries = opened(corpus)
    data = load_evaluation_data(trained, queries, corpus / "features")
    own = answers_with(data.frames, trained, data)
    np.testing.assert_array_equal(own[0].windows, predict(trained.network, data, trained.config)[0].windows)
    other = answers_with(data.frames.exchanged(), trained, data)
    assert any(not np.array_equal(a.windows, b.windows) for a, b in zip(own, other, strict=True))
