"""The baselines are what they say: the best window of a grid, and everything."""

from __future__ import annotations

import numpy as np
import pytest

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline.evaluate.baselines import WHOLE_VIDEO, FixedWindow, fit_fixed_window
from mesm.pipeline.evaluate.metrics import MetricsError, evaluate_predictions
from mesm.pipeline.evaluate.protocols import Protocol
from mesm.pipeline.evaluate.tables import length_table, metrics_table
from mesm.pipeline.report.table import render_rich, render_text


def annotation(query_id: int, *moments: tuple[float, float], duration_s: float | None = 100.0) -> Annotation:
    return Annotation(query_id, f"v{query_id}", "a query", moments, duration_s, None, "test")


def test_the_common_window_is_found() -> None:
    queries = [annotation(i, (20.0, 60.0)) for i in range(3)]
    assert fit_fixed_window(queries, criterion="mIoU") == FixedWindow(0.2, 0.6)


def test_no_window_of_the_grid_is_better() -> None:
    rng = np.random.default_rng(0)
    queries = []
    for number in range(40):
        start, end = np.sort(rng.uniform(0, 100, 2)).tolist()
        queries.append(annotation(number, (start, end), (0.0, 3.0)))
    found = {criterion: fit_fixed_window(queries, criterion=criterion) for criterion in ("R1@0.5", "mIoU")}
    scores = {
        name: evaluate_predictions(window.predict(queries), queries, Protocol("any")).full
        for name, window in found.items()
    }
    for start in range(0, 50, 5):
        for end in range(start + 5, 51, 5):
            other = FixedWindow(start / 50, end / 50)
            figures = evaluate_predictions(other.predict(queries), queries, Protocol("any")).full
            assert figures.r1[0.5] <= scores["R1@0.5"].r1[0.5] + 1e-9
            assert figures.miou <= scores["mIoU"].miou + 1e-9


def test_whole_video_covers_it() -> None:
    (prediction,) = WHOLE_VIDEO.predict([annotation(0, (1.0, 2.0), duration_s=None)], {"v0": 12.5})
    np.testing.assert_array_equal(prediction.windows, [[0, 12.5, 1]])
    assert WHOLE_VIDEO.name == "whole video"


def test_an_unknown_duration_is_an_error() -> None:
    with pytest.raises(MetricsError, match="duration of the video v0 is unknown"):
        WHOLE_VIDEO.predict([annotation(0, (1.0, 2.0), duration_s=None)])


def test_nothing_to_fit_on_is_an_error() -> None:
    with pytest.raises(MetricsError, match="found none"):
        fit_fixed_window([annotation(0)])


def test_the_table_sets_baselines_beside_the_model() -> None:
    queries = [annotation(0, (0.0, 50.0)), annotation(1, (0.0, 100.0))]
    window = FixedWindow(0.0, 0.5)
    scores = {
        entry.name: evaluate_predictions(entry.predict(queries), queries, Protocol("any"))
        for entry in (window, WHOLE_VIDEO)
    }
    table = metrics_table(scores)
    assert table.columns == ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU", "mAP@0.5", "mAP@0.75", "mAP avg")
    lines = render_text(table).splitlines()
    figures = ["100.00", "100.00", "50.00", "75.00", "100.00", "50.00", "55.00"]
    assert lines[1].split() == ["fixed", "window", "0%", "to", "50%", *figures]
    assert len({len(line) for line in lines}) == 1
    assert render_rich(table, "test").row_count == 2
    assert [name for name, _ in length_table(scores["whole video"]).rows] == [
        "full, 2 queries",
        "long, 2 queries",
    ]
