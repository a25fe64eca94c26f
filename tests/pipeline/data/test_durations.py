"""Moments and windows outside of their video, or that end before they start: said at every door, never trained on."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from tiny_training import make_corpus, tiny_config, train_tiny, workspace_of

from mesm.datasets.annotations.records import Annotation, Saliency, clean_moment
from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.errors import AnnotationError
from mesm.datasets.targets import query_targets, saliency_rows
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import VideoFeatureConfig
from mesm.pipeline.data.durations import with_known_durations
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.evaluate.metrics import MetricsError, evaluate_predictions
from mesm.pipeline.evaluate.predictions import Prediction, PredictionError, load_predictions
from mesm.pipeline.evaluate.protocols import find_protocol
from mesm.pipeline.importers.features import import_features
from mesm.pipeline.train.data import load_training_data


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path, videos=4, test_videos=1)


def rewrite(corpus: Path, moments: list[list[float]]) -> None:
    """State no duration, and give the first query of v00, whose 8 rows are 8 s, these moments."""
    file = corpus / "annotations" / "train.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line.pop("duration_s", None)
    lines[0]["moments"] = moments
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def everything(corpus: Path) -> list[Annotation]:
    data = load_training_data(workspace_of(corpus, tiny_config(corpus)))
    return [*data.train.annotations, *data.validation.annotations]


def test_a_moment_behind_the_end_is_left_out_and_named(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(corpus, [[100, 200]])
    found = everything(corpus)
    assert len(found) == 7
    assert not [query for query in found if query.query_id == 0]
    assert "left out: query 0: [100.0, 200.0] of v00, 8 s long" in capsys.readouterr().err
    rewrite(corpus, [[100, 200], [2, 4]])
    (query,) = [query for query in everything(corpus) if query.query_id == 0]
    assert query.moments == ((2.0, 4.0),)
    rewrite(corpus, [[2, 4]])
    capsys.readouterr()
    assert len(everything(corpus)) == 8
    assert "left out" not in capsys.readouterr().err


def test_no_target_lies_outside_of_the_video(corpus: Path) -> None:
    rewrite(corpus, [[4, 200]])
    data = load_training_data(workspace_of(corpus, tiny_config(corpus)))
    for part in (data.train, data.validation):
        for query in part._queries:
            assert query.targets is not None
            assert 0 <= query.targets.windows.min() <= query.targets.windows.max() <= 1
    stated = Annotation(0, "v", "q", ((50.0, 200.0),), 100.0, None, "train")
    assert query_targets(stated, 10, 10.0).windows.tolist() == [[0.5, 1.0]]


def test_nothing_left_to_train_on_is_said(corpus: Path, tmp_path: Path) -> None:
    file = corpus / "annotations" / "train.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line.pop("duration_s", None)
        line["moments"] = [[500, 501]]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(PipelineError, match="no query has a moment inside its video"):
        train_tiny(corpus, tmp_path / "run")


def test_a_pooled_video_is_as_long_as_all_its_rows(corpus: Path) -> None:
    config = tiny_config(corpus, "dataset.max_rows=4")
    folders = open_streams(config.features.video, corpus / "features")
    query = Annotation(0, "v00", "q", ((6.0, 8.0),), None, None, "train")
    (found,) = with_known_durations([query], folders, config.dataset)
    assert found.duration_s == 8.0
    assert query_targets(found, 4, 1.0).windows.tolist() == [[0.75, 1.0]]
    cut = tiny_config(corpus, "dataset.max_rows=4", "dataset.rows=truncate")
    assert with_known_durations([query], folders, cut.dataset) == [query]


def test_evaluation_names_truth_that_no_answer_can_find(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(corpus, tmp_path / "run", "train.epochs=1")
    file = corpus / "annotations" / "test.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["moments"], lines[0]["duration_s"] = [[100, 101]], None
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["evaluate", str(run.path), "--annotations", str(corpus / "annotations")]
    assert cli.run([*arguments, "--features", str(corpus / "features"), "--device", "cpu"]) == 0
    assert f"no answer can find them: query {lines[0]['query_id']}" in capsys.readouterr().err


def test_windows_that_begin_behind_a_stated_end_are_refused(tmp_path: Path) -> None:
    line = {"qid": 1, "query": "q", "vid": "v", "duration": 150, "relevant_windows": [[150, 160]]}
    (tmp_path / "highlight_val_release.jsonl").write_text(json.dumps(line))
    with pytest.raises(AnnotationError, match="line 1: relevant_windows: expected a start before the duration of 150"):
        read_annotations("qvhighlights", tmp_path, "val")


def test_moments_before_the_start_are_dropped() -> None:
    assert clean_moment(-5, -3, 30) is None
    assert clean_moment(-3, -5, 30) is None
    assert clean_moment(-5, 3, 30) == (0, 3)


def test_clip_numbers_and_scores_cost_no_memory_and_make_no_infinity(tmp_path: Path) -> None:
    for clip, score in ((10**12, 1), (3, 1e39)):
        line = {"qid": 1, "query": "q", "vid": "v", "duration": 150, "relevant_windows": [[0, 2]]}
        line |= {"relevant_clip_ids": [clip], "saliency_scores": [[score]]}
        (tmp_path / "highlight_val_release.jsonl").write_text(json.dumps(line))
        with pytest.raises(AnnotationError, match=r"relevant_clip_ids|saliency_scores"):
            read_annotations("qvhighlights", tmp_path, "val")
    listed, scores = saliency_rows(Saliency((10**9, 2, 0), ((1.0,), (4.0, 2.0), (3.0,)), 2.0), 4, 2.0)
    assert listed.tolist() == [True, False, True, False]
    assert scores.tolist() == [3, 0, 6, 0]
    assert scores.dtype == np.float32


def test_predictions_are_compared_with_the_video_and_must_end_after_they_start(tmp_path: Path) -> None:
    truth = [Annotation(0, "v", "q", ((2.0, 4.0),), 8.0, None, "val")]
    protocol = find_protocol("charades", published=False)
    windows = np.array([[2.0, 4.0, 1.0]])
    assert evaluate_predictions([Prediction(0, "q", "v.mp4", windows)], truth, protocol).full.miou == 100
    assert evaluate_predictions([Prediction(0, "q", "", windows)], truth, protocol).full.miou == 100
    with pytest.raises(MetricsError, match=r"of another video .*\(0: w, not v\)"):
        evaluate_predictions([Prediction(0, "q", "w", windows)], truth, protocol)
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps({"qid": 0, "vid": "v", "pred_relevant_windows": [[4, 2, 0.5], [3, 3, 0.4]]}))
    with pytest.raises(PredictionError, match=r"expected windows that end after their start, found \[4.0, 2.0, 0.5\]"):
        load_predictions(file)


def test_predictions_beyond_all_videos_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps({"qid": 0, "vid": "v", "pred_relevant_windows": [[-1e308, 1e308, 0.5]]}))
    with pytest.raises(PredictionError, match="expected seconds, found 1e"):
        load_predictions(file)


def test_imported_rows_that_share_the_duration_open(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["v"] = np.ones((3, 4), np.float32)
    import_features(tmp_path / "a.h5", tmp_path / "F", name="c3d", clip_len_s=None, durations={"v": 6.0})
    (folder,) = open_streams([VideoFeatureConfig(encoder="c3d", clip_len=4.3537)], tmp_path / "F")
    assert folder.record("v").clip_len_s == 2.0


def test_highlights_of_a_video_of_a_million_years_are_refused() -> None:
    saliency = Saliency((0,), ((4.0,),), 2.0)
    truth = [Annotation(0, "v", "q", ((2.0, 4.0),), 1e13, saliency, "val")]
    prediction = Prediction(0, "q", "v", np.array([[2.0, 4.0, 1.0]]), np.zeros(3))
    with pytest.raises(MetricsError, match="expected durations in seconds"):
        evaluate_predictions([prediction], truth, find_protocol("qvhighlights", published=False))


def test_targets_of_ordinary_annotations_are_what_they_were(corpus: Path) -> None:
    data = load_training_data(workspace_of(corpus, tiny_config(corpus)))
    for query, annotation in zip(data.train._queries, data.train.annotations, strict=True):
        assert query.targets is not None
        wanted = np.array(annotation.moments) / annotation.duration_s
        assert torch.equal(torch.from_numpy(query.targets.windows), torch.from_numpy(wanted.astype(np.float32)))
