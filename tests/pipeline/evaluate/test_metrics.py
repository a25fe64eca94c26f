"""Metrics equal the published evaluation's figures, and say clearly why something cannot be scored."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import shared_path

from mesm.datasets.annotations.records import Annotation, Saliency
from mesm.datasets.annotations.registry import read_annotations
from mesm.pipeline.evaluate.metrics import MetricsError, Scores, evaluate_predictions
from mesm.pipeline.evaluate.predictions import Prediction, PredictionError, load_predictions, save_predictions
from mesm.pipeline.evaluate.protocols import Protocol, find_protocol

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden_metrics.json").read_text())
SETTINGS = sorted(GOLDEN)


def annotation(query_id: int, moments: list[list[float]], duration_s: float = 150.0, **more: Any) -> Annotation:
    windows = tuple((float(start), float(end)) for start, end in moments)
    return Annotation(query_id, f"v{query_id}", "a query", windows, duration_s, more.get("saliency"), "test")


def prediction(query_id: int | str, windows: list[list[float]], saliency: list[float] | None = None) -> Prediction:
    scores = None if saliency is None else np.array(saliency)
    return Prediction(query_id, "a query", f"v{query_id}", np.array(windows, float).reshape(-1, 3), scores)


def score_golden(setting: dict[str, Any]) -> Scores:
    truth = [annotation(gt["qid"], gt["relevant_windows"], gt["duration"]) for gt in setting["gt"]]
    answers = [prediction(post["qid"], post["pred_relevant_windows"]) for post in setting["post"]]
    protocol = find_protocol(setting["dataset"], published=True, clip_len_s=setting["clip_len"])
    return evaluate_predictions(answers, truth, protocol)


def assert_same_figures(found: dict[str, Any] | None, expected: dict[str, Any], place: str) -> None:
    for key, value in expected.items():
        ours = None if found is None else found.get(key)
        if isinstance(value, dict):
            assert_same_figures(ours, value, f"{place}/{key}")
        elif value is None:
            assert ours is None, f"{place}/{key}"
        else:
            assert ours == pytest.approx(value, abs=1e-6), f"{place}/{key}"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_published_figure_is_met(name: str) -> None:
    setting = GOLDEN[name]
    assert_same_figures(score_golden(setting).as_record(), setting["metrics"], name)


def test_a_range_without_moments_has_no_figures() -> None:
    scores = score_golden(GOLDEN["charades_csf"])
    assert scores.moments["long"] is None
    assert scores.brief()["MR-long-mAP"] is None


def test_qvhighlights_figures_are_met_in_half_a_second() -> None:
    folder = shared_path("golden/qvhighlights_val")
    truth = read_annotations("qvhighlights", shared_path("annotations/qvhighlights"), "val")
    answers = load_predictions(folder / "predictions.jsonl")
    protocol = find_protocol("qvhighlights", published=True, clip_len_s=2)
    durations = []
    for _ in range(3):
        started = time.perf_counter()
        record = evaluate_predictions(answers, truth, protocol).as_record()
        durations.append(time.perf_counter() - started)
    assert_same_figures(record, json.loads((folder / "metrics.json").read_text()), "val")
    assert min(durations) < 0.5


def slow_average_precision(windows: np.ndarray, moments: list[list[float]], threshold: float) -> float:
    """The same definition, one query and one window at a time."""
    order = sorted(range(len(windows)), key=lambda i: -windows[i, 2])
    free, hits = set(range(len(moments))), []
    for i in order:
        start, end = windows[i, :2]
        best, best_iou = -1, 0.0
        for g in sorted(free):
            inter = max(0.0, min(end, moments[g][1]) - max(start, moments[g][0]))
            iou = inter / (max(end, moments[g][1]) - min(start, moments[g][0])) if inter else 0.0
            if iou >= best_iou:
                best, best_iou = g, iou
        hits.append(best_iou >= threshold)
        if hits[-1]:
            free.remove(best)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return sum(precision[i:].max() for i, hit in enumerate(hits) if hit) / len(moments)


def random_windows(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.sort(rng.integers(0, 40, (count, 2)), axis=1) + np.array([0, 1])


@given(seed=st.integers(0, 10**6), queries=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_average_precision_is_that_of_a_plain_loop(seed: int, queries: int) -> None:
    rng = np.random.default_rng(seed)
    truth, answers = [], []
    for number in range(queries):
        edges = random_windows(rng, rng.integers(1, 5))
        windows = random_windows(rng, rng.integers(1, 11))
        truth.append(annotation(number, edges.tolist()))
        scores = rng.permutation(len(windows))[:, None]
        answers.append(prediction(number, np.append(windows, scores, axis=1).tolist()))
    scores = evaluate_predictions(answers, truth, Protocol("any"))
    for threshold in (0.5, 0.75):
        expected = [
            slow_average_precision(p.windows, [list(m) for m in a.moments], threshold)
            for p, a in zip(answers, truth, strict=True)
        ]
        assert scores.full.ap[threshold] == pytest.approx(100 * np.mean(expected))


def test_order_of_queries_and_of_moments_does_not_matter() -> None:
    truth = [annotation(0, [[0, 10], [20, 50]]), annotation(1, [[5, 9]])]
    turned = [annotation(1, [[5, 9]]), annotation(0, [[20, 50], [0, 10]])]
    answers = [prediction(0, [[21, 48, 0.9], [0, 9, 0.3]]), prediction(1, [[5, 8, 0.5]])]
    one = evaluate_predictions(answers, truth, Protocol("any"))
    assert one == evaluate_predictions(answers[::-1], turned, Protocol("any"))


def test_perfect_answers_score_a_hundred() -> None:
    saliency = Saliency((1, 2), ((4, 4, 4), (4, 4, 4)))
    truth = [annotation(0, [[2, 6]], 8.0, saliency=saliency)]
    scores = evaluate_predictions([prediction(0, [[2, 6, 1.0]], [0, 1, 1, 0])], truth, Protocol("any"))
    assert set(scores.full.r1.values()) == {100.0}
    assert scores.full.ap_average == pytest.approx(100)
    assert scores.highlights is not None
    assert all(level.ap == level.hit1 == 100 for level in scores.highlights.values())


def test_a_query_without_windows_counts_as_missed() -> None:
    truth = [annotation(0, [[2, 6]]), annotation(1, [[2, 6]])]
    scores = evaluate_predictions([prediction(0, []), prediction(1, [[2, 6, 1]])], truth, Protocol("any"))
    assert scores.full.r1[0.5] == scores.full.miou == scores.full.ap_average == pytest.approx(50)


def test_all_clips_of_one_score_are_one_step_of_the_ranking() -> None:
    truth = [annotation(0, [[0, 4]], 8.0, saliency=Saliency((0,), ((4, 0, 0),)))]
    scores = evaluate_predictions([prediction(0, [[0, 4, 1]], [1, 1, 1, 1])], truth, Protocol("any"))
    assert scores.highlights is not None
    assert scores.highlights["VeryGood"].ap == pytest.approx(100 * (1 / 4) / 3)


def test_saliency_for_a_removed_last_clip_is_ignored() -> None:
    truth = [annotation(0, [[0, 4]], 8.0, saliency=Saliency((0,), ((4, 4, 4),)))]
    answers = [prediction(0, [[0, 4, 1]], [1, 0, 0, 0, 5])]
    scores = evaluate_predictions(answers, truth, Protocol("any"))
    assert scores.highlights is not None
    assert scores.highlights["Good"].ap == pytest.approx(100)
    assert scores.highlights["Good"].hit1 == 0


def test_missing_and_superfluous_queries_are_an_error_unless_allowed() -> None:
    truth = [annotation(0, [[0, 4]]), annotation(1, [[0, 4]])]
    answers = [prediction(0, [[0, 4, 1]]), prediction(7, [[0, 4, 1]])]
    with pytest.raises(MetricsError, match=r"1 of 2 annotated.*\(1\).*1 predictions.*\(7\)"):
        evaluate_predictions(answers, truth, Protocol("any"))
    scores = evaluate_predictions(answers, truth, Protocol("any"), allow_partial=True)
    assert (scores.queries, scores.unscored) == (1, 2)


def test_predictions_of_another_dataset_are_refused_in_any_case() -> None:
    with pytest.raises(MetricsError, match="no query id in common"):
        evaluate_predictions(
            [prediction(7, [[0, 4, 1]])], [annotation(0, [[0, 4]])], Protocol("any"), allow_partial=True
        )


def test_a_query_id_may_be_text_in_one_file_and_a_number_in_the_other() -> None:
    scores = evaluate_predictions([prediction("3", [[0, 4, 1]])], [annotation(3, [[0, 4]])], Protocol("any"))
    assert scores.full.r1[0.7] == 100


def test_the_same_query_twice_is_an_error() -> None:
    twice = [prediction(0, [[0, 4, 1]])] * 2
    with pytest.raises(MetricsError, match="more than once"):
        evaluate_predictions(twice, [annotation(0, [[0, 4]])], Protocol("any"))


def test_predictions_survive_a_round_trip(tmp_path: Path) -> None:
    written = [prediction(0, [[0.5, 4.25, 0.9]], [0.1, -2]), prediction("b", [])]
    save_predictions(tmp_path / "p.jsonl", written)
    read = load_predictions(tmp_path / "p.jsonl")
    assert [p.as_record() for p in read] == [p.as_record() for p in written]


def test_all_malformed_lines_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"qid": 1, "pred_relevant_windows": [[0, 1, 0.5]]}\n'
        "not json\n"
        '{"qid": 2, "pred_relevant_windows": [[0, 1]]}\n'
        '{"pred_relevant_windows": [[0, 1, "x"]]}\n'
        "\n"
        '{"qid": 1, "pred_relevant_windows": []}\n'
        '{"qid": 3, "pred_relevant_windows": [[0, 1, NaN]], "pred_saliency_scores": 5}\n'
        "[1, 2]\n"
    )
    with pytest.raises(PredictionError) as caught:
        load_predictions(path)
    message = str(caught.value)
    for place in ("p.jsonl:2:", "p.jsonl:3:", "p.jsonl:4: qid", "p.jsonl:4: pred_rel", "p.jsonl:6: qid"):
        assert place in message
    for place in ("p.jsonl:7: pred_relevant", "p.jsonl:7: pred_saliency", "p.jsonl:8:"):
        assert place in message
    assert message.startswith("8 problems")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_predictions_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(PredictionError, match="empty file"):
        load_predictions(tmp_path / "p.jsonl")


def test_a_missing_predictions_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match=r"nothing\.jsonl"):
        load_predictions(tmp_path / "nothing.jsonl")
