"""Evaluation: predictions in the submission format, baselines beside them, and no query depends on another."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import (
    TEXT_DIM,
    make_corpus,
    queries_of,
    train_tiny,
    write_streams,
    write_word_table,
)

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.errors import FeatureError
from mesm.model.ranking import soft_iou
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.data.splits import training_splits
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import WORD_TABLE_FILE, VectorText
from mesm.pipeline.evaluate.predict import evaluate_split, predict, protocol_of
from mesm.pipeline.evaluate.predictions import load_predictions
from mesm.pipeline.evaluate.stage import Evaluation, evaluate, evaluate_run
from mesm.pipeline.evaluate.trained import load_evaluation_data, load_trained
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.directory import RunDirectory

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), videos=8, test_videos=6)
    train_tiny(folder, folder / "run", "train.epochs=3")
    return folder


def run_on(corpus: Path, queries: list[Annotation], train: list[Annotation], published: bool = False) -> Evaluation:
    trained = load_trained(corpus / "run", CPU)
    if published:
        settings = replace(trained.config, evaluate=replace(trained.config.evaluate, published=True))
        trained = replace(trained, config=settings)
    (result,) = evaluate_run(trained, {"test": queries}, train, corpus / "features")
    return result


def test_predictions_are_written_in_the_submission_format(corpus: Path) -> None:
    queries = queries_of(corpus, "test")
    result = run_on(corpus, queries, queries_of(corpus, "train"))
    assert result.predictions == corpus / "run" / "predictions-test.jsonl"
    records = [json.loads(line) for line in result.predictions.read_text().splitlines()]
    assert [(r["qid"], r["query"], r["vid"]) for r in records] == [(q.query_id, q.query, q.video_id) for q in queries]
    for record, query in zip(records, queries, strict=True):
        assert set(record) == {"qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"}
        windows = np.array(record["pred_relevant_windows"])
        assert windows.shape == (4, 3)
        assert (np.diff(windows[:, 2]) <= 0).all()
        assert query.duration_s is not None
        assert ((windows[:, :2] >= 0) & (windows[:, :2] <= query.duration_s)).all()
        assert len(record["pred_saliency_scores"]) == query.duration_s
    assert len(load_predictions(result.predictions)) == len(queries)


def test_answers_ranked_by_frames_overlap_with_them(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", videos=6, test_videos=4)
    overrides = ["train.epochs=1", "model.encoder_loss=bce"]
    scores = []
    for name in ("class", "frames"):
        run = train_tiny(corpus, tmp_path / name, *overrides, f"evaluate.rank_by={name}")
        trained = load_trained(run.path, CPU)
        data = load_evaluation_data(trained, queries_of(corpus, "test"), corpus / "features")
        scores.append(predict(trained.network, data, trained.config))
    for by_class, by_frames in zip(*scores, strict=True):
        probability = {tuple(window[:2]): window[2] for window in by_class.windows}
        assert by_frames.saliency is not None
        inside = torch.from_numpy(by_frames.saliency).sigmoid()[None]
        for start, end, score in by_frames.windows:
            window = torch.tensor([[[start, end]]], dtype=torch.float64) / inside.shape[1]
            overlap = float(soft_iou(window, inside, torch.tensor([inside.shape[1]])))
            assert score == pytest.approx(probability[start, end] * overlap, abs=2e-4)
        assert (np.diff(by_frames.windows[:, 2]) <= 0).all()


def test_baselines_stand_beside_the_network(corpus: Path) -> None:
    result = run_on(corpus, queries_of(corpus, "test"), queries_of(corpus, "train"))
    assert next(iter(result.scores)) == "tiny"
    assert any(name.startswith("fixed window") for name in result.scores)
    assert "whole video" in result.scores
    assert len({scores.queries for scores in result.scores.values()}) == 1


def test_baselines_need_no_annotated_durations(corpus: Path) -> None:
    train = [dataclasses.replace(a, duration_s=None) for a in queries_of(corpus, "train")]
    test = [dataclasses.replace(a, duration_s=None) for a in queries_of(corpus, "test")]
    expected = run_on(corpus, queries_of(corpus, "test"), queries_of(corpus, "train"))
    found = run_on(corpus, test, train)
    assert {name: s.brief() for name, s in found.scores.items()} == (
        {name: s.brief() for name, s in expected.scores.items()}
    )


def test_without_training_queries_the_whole_video_is_left(corpus: Path) -> None:
    assert list(run_on(corpus, queries_of(corpus, "test"), []).scores) == ["tiny", "whole video"]


def test_answer_depends_neither_on_batch_size_nor_on_other_queries(
    monkeypatch: pytest.MonkeyPatch, corpus: Path
) -> None:
    # Rounding to four places would make one in the fourth of a difference in the seventh.
    monkeypatch.setattr("mesm.pipeline.evaluate.postprocessing.DECIMALS", 12)
    trained = load_trained(corpus / "run", CPU)
    queries = queries_of(corpus, "test")

    def answers(some: list[Annotation], batch_groups: int) -> list[np.ndarray]:
        config = trained.config
        config = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, batch_groups=batch_groups))
        data = load_evaluation_data(trained, some, corpus / "features")
        return [np.concatenate([p.windows.ravel(), p.saliency]) for p in predict(trained.network, data, config)]

    together = answers(queries, 30)
    for batch_groups in (1, 2, 4):
        for found, expected in zip(answers(queries, batch_groups), together, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    for query, expected in zip(queries, together, strict=True):
        np.testing.assert_allclose(answers([query], 30)[0], expected, atol=1e-5)
    for found, expected in zip(answers(queries[::-1], 3), together[::-1], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_best_checkpoint_scores_what_its_training_said(corpus: Path) -> None:
    trained = load_trained(corpus / "run", CPU)
    _, held, _ = training_splits(trained.config, corpus / "annotations")
    data = load_evaluation_data(trained, held, corpus / "features")
    scores = evaluate_split(trained.network, data, trained.config)
    assert scores.full.miou == pytest.approx(trained.checkpoint.meta["state"]["best_score"], abs=1e-9)


def test_published_protocol_rounds_to_the_clip_grid(corpus: Path) -> None:
    result = run_on(corpus, queries_of(corpus, "test"), [], published=True)
    windows = np.concatenate([prediction.windows for prediction in load_predictions(result.predictions)])
    np.testing.assert_array_equal(windows[:, :2], windows[:, :2].round())
    assert "published" in result.scores["tiny"].protocol


def test_protocol_follows_the_dataset() -> None:
    from mesm.pipeline.config.load import load_config

    assert protocol_of(load_config("tacos-c3d-glove")).name.startswith("tacos")
    assert protocol_of(load_config("qvhighlights-clip-slowfast")).name.startswith("qvhighlights")
    assert protocol_of(load_config("charades-cg-i3d-glove")).name.startswith("charades")
    assert protocol_of(load_config("demo", ["evaluate.nms=0.7"])).nms_iou == 0.7
    assert protocol_of(load_config("demo")).nms_iou is None


def test_checkpoint_file_is_as_good_as_its_folder(corpus: Path) -> None:
    trained = load_trained(RunDirectory(corpus / "run").checkpoint_path(BEST), CPU)
    assert trained.folder == corpus / "run"
    assert not trained.network.training


def test_other_features_are_refused_by_name(corpus: Path, tmp_path: Path) -> None:
    features = tmp_path / "features"
    shutil.copytree(corpus / "features", features)
    shutil.rmtree(next(features.glob("second-*")))
    streams = {q.video_id: (np.ones((12, 8), np.float32),) * 2 for q in queries_of(corpus, "test")}
    write_streams(features, streams, version=1, names=["second"])
    trained = load_trained(corpus / "run", CPU)
    with pytest.raises(
        PipelineError, match=r"other features \(second: trained with [0-9a-f]{12}, found [0-9a-f]{12}\)"
    ):
        load_evaluation_data(trained, queries_of(corpus, "test"), features)


def test_missing_text_is_named(corpus: Path) -> None:
    query = dataclasses.replace(queries_of(corpus, "test")[0], query="nobody extracted this")
    with pytest.raises(FeatureError, match="nobody extracted this"):
        run_on(corpus, [query], [])


def test_stage_reads_the_splits_of_the_configuration_and_keeps_the_figures(corpus: Path) -> None:
    results = evaluate(corpus / "run", corpus / "annotations", corpus / "features", [], CPU, published=False)
    assert [result.split for result in results] == ["test"]
    record = json.loads((corpus / "run" / "evaluation.json").read_text())
    assert set(record["test"]) == set(results[0].scores)
    with pytest.raises(PipelineError, match="no annotations were given"):
        evaluate(corpus / "run", None, corpus / "features", [], CPU, published=False)


def as_imported(corpus: Path, out: Path) -> Path:
    """A run as the importer of released checkpoints writes it: features and vocabulary are not known."""
    checkpoint = RunDirectory(corpus / "run").load(BEST)
    assert checkpoint is not None
    meta = {k: v for k, v in checkpoint.meta.items() if k != "format"}
    run = RunDirectory(out)
    run.create()
    run.save(BEST, checkpoint.tensors, {**meta, "fingerprints": {}, "imported": {"source": "x"}})
    return out


def test_released_network_takes_any_features_that_fit_and_warns(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = as_imported(corpus, tmp_path / "run")
    queries = queries_of(corpus, "test")
    features = tmp_path / "features"
    shutil.copytree(corpus / "features", features)
    shutil.rmtree(next(features.glob("second-*")))
    streams = {q.video_id: (np.ones((12, 8), np.float32),) * 2 for q in queries}
    write_streams(features, streams, version=1, names=["second"])
    load_evaluation_data(load_trained(run, CPU), queries, features)
    assert "warning: the released checkpoint does not say which features" in capsys.readouterr().err
    shutil.rmtree(next(features.glob("second-*")))
    narrow = {q.video_id: (np.ones((12, 5), np.float32),) * 2 for q in queries}
    write_streams(features, narrow, version=2, names=["second"])
    with pytest.raises(PipelineError, match=r"reads frames of 18 numbers .* the features have 15 and 12"):
        load_evaluation_data(load_trained(run, CPU), queries, features)


def test_released_network_reads_its_words_beside_the_features(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", videos=4, test_videos=2)
    table = write_word_table(corpus / "features")
    overrides = ("features.text.encoder=glove", "features.text.unknown_words=vector", "train.epochs=1")
    train_tiny(corpus, corpus / "run", *overrides)
    own = load_evaluation_data(load_trained(corpus / "run", CPU), queries_of(corpus, "test"), corpus / "features")
    run = as_imported(corpus, tmp_path / "run")
    trained = load_trained(run, CPU)
    data = load_evaluation_data(trained, queries_of(corpus, "test"), corpus / "features")
    assert torch.equal(data._words, own._words)
    source = text_kind("glove").from_run(trained.text, corpus / "features", trained.config).source
    assert isinstance(source, VectorText)
    assert source.table.words == table.words
    (corpus / "features" / WORD_TABLE_FILE).unlink()
    with pytest.raises(PipelineError, match=r"no word vectors.*--name glove"):
        load_evaluation_data(trained, queries_of(corpus, "test"), corpus / "features")
    assert data.text_dim == TEXT_DIM


def test_controls_show_what_is_guessed_without_the_video(corpus: Path) -> None:
    test, train = queries_of(corpus, "test"), queries_of(corpus, "train")
    (result,) = evaluate_run(
        load_trained(corpus / "run", CPU), {"test": test}, train, corpus / "features", controls=True
    )
    plain = run_on(corpus, test, train)
    names = list(result.scores)
    assert {"without the video", "with another video"} < set(names)
    assert result.scores[names[0]].full == plain.scores[names[0]].full
    assert result.scores["with another video"].full != result.scores[names[0]].full


def test_exchanged_videos_are_others_and_blanked_ones_keep_their_times(corpus: Path) -> None:
    trained = load_trained(corpus / "run", CPU)
    data = load_evaluation_data(trained, queries_of(corpus, "test"), corpus / "features")
    videos = list(data.frames.lengths)
    own, blank, other = (
        {video: table.take([video])[0] for video in videos}
        for table in (data.frames, data.frames.blanked(), data.frames.exchanged())
    )
    for video in videos:
        assert not blank[video][:, :-2].any()
        assert torch.equal(blank[video][:, -2:], own[video][:, -2:])
        assert any(torch.equal(other[video], own[v]) for v in videos if v != video)


def test_what_training_held_back_is_a_split_of_its_own(corpus: Path) -> None:
    place, features = corpus / "annotations", corpus / "features"
    (result,) = evaluate(corpus / "run", place, features, ["validation"], CPU, published=False)
    held = training_splits(load_trained(corpus / "run", CPU).config, place)[1]
    assert result.split == "validation"
    assert [p.query_id for p in load_predictions(result.predictions)] == [q.query_id for q in held]
