"""Training: it learns, it resumes bit for bit after a kill, and it refuses what would spoil a run."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import (
    make_corpus,
    queries_of,
    tiny_config,
    tiny_steps,
    train_killed,
    train_tiny,
    write_streams,
    write_texts,
    write_word_table,
)

from mesm.datasets.grouping import epoch_batches
from mesm.model.networks.mesm import Mesm
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import TrainConfig
from mesm.pipeline.data.batches import batches_by_length
from mesm.pipeline.data.splits import training_splits
from mesm.pipeline.data.texts import WORD_TABLE_FILE
from mesm.pipeline.run.checkpoint import BEST, LAST
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.train.optimisation import Average, learning_rate

CPU = torch.device("cpu")
SHORT = ("train.epochs=2",)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def straight(corpus: Path) -> RunDirectory:
    """Six epochs without a break."""
    return train_tiny(corpus, corpus / "straight")


def without_times(run: RunDirectory) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.metrics()]


def assert_same_run(run: RunDirectory, expected: RunDirectory) -> None:
    assert without_times(run) == without_times(expected)
    for which in (LAST, BEST):
        found, wanted = run.load(which), expected.load(which)
        assert found is not None
        assert wanted is not None
        assert found.meta == wanted.meta
        assert found.tensors.keys() == wanted.tensors.keys()
        for name, value in wanted.tensors.items():
            assert torch.equal(found.tensors[name], value), name


def test_the_loss_falls(straight: RunDirectory) -> None:
    rows = straight.metrics()
    assert [row["epoch"] for row in rows] == list(range(6))
    assert rows[-1]["loss"]["total"] < 0.6 * rows[0]["loss"]["total"]
    assert all(math.isfinite(value) for row in rows for value in row["loss"].values())


def test_every_epoch_is_validated_and_the_best_one_is_kept(straight: RunDirectory) -> None:
    scores = [row["validation"]["MR-full-miou"] for row in straight.metrics()]
    best = straight.load(BEST)
    assert best is not None
    assert scores[best.meta["state"]["best_epoch"]] == max(scores)
    assert best.meta["state"]["best_score"] == pytest.approx(max(scores), abs=0.01)


@pytest.mark.parametrize("fault", ["train:step:8", "checkpoint:half-written:13"])
def test_killed_run_resumes_bit_for_bit(corpus: Path, straight: RunDirectory, tmp_path: Path, fault: str) -> None:
    assert train_killed(corpus, tmp_path / "run", fault) == -9
    last = RunDirectory(tmp_path / "run").load(LAST)
    assert last is not None
    assert 0 < last.meta["state"]["epoch"] < 6
    run = train_tiny(corpus, tmp_path / "run")
    assert_same_run(run, straight)
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        "train:step:1",
        "train:step:9",
        "train:step:10",
        "train:step:18",
        "metrics:published:1",
        "metrics:published:4",
        "checkpoint:before-write:1",
        "checkpoint:before-write:4",
        "checkpoint:published:1",
        "checkpoint:published:4",
        "checkpoint:published:5",
        "checkpoint:half-written:6",
    ],
)
def test_run_killed_anywhere_resumes_bit_for_bit(
    corpus: Path, straight: RunDirectory, tmp_path: Path, fault: str
) -> None:
    assert train_killed(corpus, tmp_path / "run", fault) == -9
    assert_same_run(train_tiny(corpus, tmp_path / "run"), straight)


@pytest.mark.slow
def test_averaged_and_cosine_run_killed_twice_resumes_bit_for_bit(corpus: Path, tmp_path: Path) -> None:
    overrides = [
        "train.ema=0.9",
        "model.standardise=true",
        "train.schedule=cosine",
        "train.warmup_steps=4",
        "train.epochs=4",
        "dataset.max_queries_per_group=1",
        "loss.triplet=true",
        "model.recurrent_frames=true",
        "model.recurrent_words=true",
    ]
    expected = train_tiny(corpus, tmp_path / "straight", *overrides)
    for fault in ("train:step:8", "train:step:9"):
        assert train_killed(corpus, tmp_path / "run", fault, overrides) == -9
    assert_same_run(train_tiny(corpus, tmp_path / "run", *overrides), expected)


@pytest.mark.slow
def test_stopped_between_checkpoints_loses_only_what_came_after(corpus: Path, tmp_path: Path) -> None:
    overrides = ["train.checkpoint_every_s=1000", *SHORT]
    assert train_killed(corpus, tmp_path / "run", "train:step:5", overrides) == -9
    last = RunDirectory(tmp_path / "run").load(LAST)
    assert last is not None
    assert (last.meta["state"]["epoch"], last.meta["state"]["step"]) == (1, 0)


def test_complete_run_says_so_and_changes_nothing(
    corpus: Path, straight: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in straight.path.iterdir()}
    train_tiny(corpus, straight.path)
    assert "is complete: 6 epochs, best " in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in straight.path.iterdir()} == before


def test_more_epochs_go_on_from_a_complete_run(corpus: Path, straight: RunDirectory, tmp_path: Path) -> None:
    run = train_tiny(corpus, tmp_path / "run", *SHORT)
    train_tiny(corpus, tmp_path / "run", "train.epochs=3")
    expected = without_times(straight)[:3]
    assert [row["loss"] for row in without_times(run)] == [row["loss"] for row in expected]


def test_other_configuration_is_refused_with_its_differences(corpus: Path, straight: RunDirectory) -> None:
    with pytest.raises(PipelineError) as raised:
        train_tiny(corpus, straight.path, "train.lr=0.1", "model.context=attention", "extract.workers=1")
    text = str(raised.value)
    assert "train.lr: 0.001 there, 0.1 here" in text
    assert "model.context: none there, attention here" in text
    assert "extract" not in text


def test_run_from_before_an_option_existed_goes_on_with_its_default(corpus: Path, tmp_path: Path) -> None:
    run = train_tiny(corpus, tmp_path / "run", *SHORT)
    last = run.load(LAST)
    assert last is not None
    del last.meta["config"]["model"]["recurrent_words"], last.meta["config"]["evaluate"]["rank_by"]
    run.save(LAST, last.tensors, last.meta)
    train_tiny(corpus, tmp_path / "run", "train.epochs=3")
    assert len(run.metrics()) == 3
    with pytest.raises(PipelineError, match=r"model\.recurrent_words: False there, True here"):
        train_tiny(corpus, tmp_path / "run", "train.epochs=4", "model.recurrent_words=true")


def test_other_features_are_refused_by_name(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", videos=4, test_videos=1)
    train_tiny(corpus, tmp_path / "run", "train.epochs=1")
    shutil.rmtree(next((corpus / "features").glob("first-*")))
    streams = {f"v{n:02}": (np.ones((8 + n % 5, 8), np.float32),) * 2 for n in range(5)}
    write_streams(corpus / "features", streams, version=1, names=["first"])
    with pytest.raises(PipelineError, match=r"other features: first: [0-9a-f]{12} there, [0-9a-f]{12} here; choose"):
        train_tiny(corpus, tmp_path / "run", "train.epochs=2")


def test_other_queries_are_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", videos=4, test_videos=1)
    train_tiny(corpus, tmp_path / "run", "train.epochs=1")
    path = corpus / "annotations" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(PipelineError, match="trained on other queries"):
        train_tiny(corpus, tmp_path / "run", "train.epochs=2")


def test_validation_split_is_carved_by_video(corpus: Path) -> None:
    config = tiny_config(corpus)
    train, held, name = training_splits(config, corpus / "annotations")
    everything = queries_of(corpus, "train")
    assert sorted(a.query_id for a in [*train, *held]) == sorted(a.query_id for a in everything)
    assert not {a.video_id for a in train} & {a.video_id for a in held}
    assert len({a.video_id for a in held}) == 3
    assert name == "25% of the train videos (seed 0)"
    other = dataclasses.replace(config.dataset, validation_seed=1)
    assert training_splits(dataclasses.replace(config, dataset=other), corpus / "annotations")[1] != held


def test_single_video_cannot_be_carved(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, videos=1, test_videos=1)
    with pytest.raises(PipelineError, match=r"single video.*dataset\.validation_split"):
        training_splits(tiny_config(corpus), corpus / "annotations")


def test_choosing_on_the_test_split_is_said(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_tiny(corpus, tmp_path / "run", "train.epochs=1", select_on="test")
    assert "the best epoch is chosen on test, a test split" in capsys.readouterr().err
    best = run.load(BEST)
    assert best is not None
    assert best.meta["validation"] == "test"
    with pytest.raises(PipelineError, match="validated on another split"):
        train_tiny(corpus, tmp_path / "run", "train.epochs=2")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_number_that_is_not_finite_stops_with_the_parts(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    original = Mesm.losses

    def spoiled(network: Mesm, output: Any, *arguments: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = original(network, output, *arguments)
        steps.append(1)
        if len(steps) == 5:
            nothing = output.saliency.sum() * 0
            # The root of zero is finite, its slope is not.
            losses["total"] = losses["total"] + (nothing.sqrt() if what == "gradient" else nothing / 0)
        return losses

    steps: list[int] = []
    monkeypatch.setattr(Mesm, "losses", spoiled)
    with pytest.raises(PipelineError, match=rf"the {what} is not finite in epoch 2, step 2: span .*, total "):
        train_tiny(corpus, tmp_path / "run")
    last = RunDirectory(tmp_path / "run").load(LAST)
    assert last is not None
    assert (last.meta["state"]["epoch"], last.meta["state"]["step"]) == (1, 1)
    assert all(value.isfinite().all() for value in last.tensors.values())


def test_average_of_the_weights_is_validated_and_kept(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Average.update
    first = tiny_steps(corpus, "train.ema=0.5", *SHORT).state.network
    weights = [{k: v.clone() for k, v in first.state_dict().items()}]

    def spy(average: Average, network: torch.nn.Module, steps: int) -> None:
        weights.append({k: v.clone() for k, v in network.state_dict().items()})
        original(average, network, steps)

    monkeypatch.setattr(Average, "update", spy)
    run = train_tiny(corpus, tmp_path / "run", "train.ema=0.5", *SHORT)
    name = "global_token"
    expected = weights[0][name]
    for step, one in enumerate(weights[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * one[name]
    last, best = run.load(LAST), run.load(BEST)
    assert last is not None
    assert best is not None
    torch.testing.assert_close(last.part("averaged")[name], expected)
    assert torch.equal(last.part("model")[name], weights[-1][name])
    assert best.meta["weights"] == "averaged"
    assert not any(key.startswith(("averaged", "optimiser")) for key in best.tensors)


def test_learning_rate_warms_up_and_falls_to_nothing() -> None:
    train = TrainConfig(epochs=6, schedule="cosine", warmup_steps=4, lr=1)
    steps = 6 * 3
    rates = [learning_rate(train, step, 3) for step in range(steps)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    middle = 4 + (steps - 4) // 2
    assert rates[middle] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(train, steps, 3) == pytest.approx(0)
    assert {learning_rate(TrainConfig(lr=0.5), step, 3) for step in range(steps)} == {0.5}


def test_a_training_shorter_than_its_warm_up_comes_to_its_end() -> None:
    train = TrainConfig(lr=0.5, schedule="cosine", warmup_steps=200, epochs=3)
    rates = [learning_rate(train, step, 3) for step in range(10)]
    assert max(rates) == 0.5
    assert rates.index(0.5) == 2
    assert rates[-1] == pytest.approx(0)
    growing = TrainConfig(lr=0.5, warmup_steps=200, epochs=3)
    assert learning_rate(growing, 8, 3) == pytest.approx(0.5 * 9 / 200)


@pytest.mark.parametrize("epoch", [0, 3])
def test_batches_by_length_hold_every_group_once_and_less_padding(epoch: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 101).tolist()
    numbers = np.random.default_rng(epoch).permutation(101).tolist()
    batches = [numbers[i : i + 4] for i in range(0, 101, 4)]
    result = batches_by_length(batches, lengths)
    assert sorted(map(len, result)) == sorted(map(len, batches))
    assert sorted(group for batch in result for group in batch) == list(range(101))

    def padded(some: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[g] for g in batch) for batch in some)

    assert padded(result) < 0.8 * padded(batches)
    longest = [max(lengths[g] for g in batch) for batch in result[:6]]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_option_groups_the_epoch_by_length(corpus: Path, tmp_path: Path) -> None:
    steps = tiny_steps(corpus, "train.group_by_length=true")
    plain = tiny_steps(corpus)
    for epoch in range(3):
        batches = steps.batches(epoch)
        assert sorted(g for b in batches for g in b) == list(range(len(steps.data.groups)))
        expected = epoch_batches(steps.data.groups, 3, seed=2019, epoch=epoch)
        assert plain.batches(epoch) == expected
        assert batches == batches_by_length(expected, steps.data.lengths_of_groups())
    meetings = [{frozenset(batch) for batch in steps.batches(epoch)} for epoch in range(3)]
    assert meetings[0] != meetings[1] != meetings[2]


OPTIONS: dict[str, tuple[str, ...]] = {
    "one group a batch": ("train.batch_groups=1",),
    "frame classifier": ("model.encoder_loss=bce",),
    "no loss of the encoder": ("model.encoder_loss=none",),
    "standardised features": ("model.standardise=true",),
    "ranking by frames": ("model.encoder_loss=bce", "evaluate.rank_by=frames"),
    "recurrence": ("model.recurrent_frames=true", "model.recurrent_words=true", "model.positions=frames"),
    "recurrence in half precision": (
        "model.recurrent_frames=true",
        "model.recurrent_words=true",
        "train.precision=bf16",
    ),
    "attention among sentences": ("model.context=attention",),
    "published masks": ("model.masks=official",),
    "own words": ("model.separate_word_feed_forward=true",),
    "triplet": ("loss.triplet=true",),
    "half precision": ("train.precision=bf16",),
    "without FW and SS": ("model.frame_word=false", "model.segment_sentence=false"),
    "no clipping": ("train.clip_norm=0",),
    "cropped videos": ("train.crop=0.7", "loss.triplet=true"),
    "pooled": ("dataset.max_rows=5",),
    "shared duration": ("dataset.clip_len=-1",),
}


@pytest.mark.parametrize("overrides", OPTIONS.values(), ids=OPTIONS.keys())
def test_option_trains(corpus: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    steps = tiny_steps(corpus, *overrides)
    steps.state.network.train()
    parts = steps.take(steps.batches(0)[0], 0).read()
    assert all(math.isfinite(value) for value in parts.values())


@pytest.mark.parametrize("crop", [0.0, 1.0])
def test_a_step_sees_parts_of_videos_where_that_is_asked_for(corpus: Path, tmp_path: Path, crop: float) -> None:
    steps = tiny_steps(corpus, f"train.crop={crop}")
    shown: list[int] = []
    steps.state.network.train().register_forward_pre_hook(lambda _, inputs: shown.append(len(inputs[0].video)))
    groups = steps.batches(0)[0]
    steps.take(groups, 0)
    indices, places = steps.data.queries_of(groups)
    whole = len(steps.data.batch(indices, places).video)
    assert shown == [whole] if crop == 0 else shown[0] < whole


def test_features_are_standardised_as_the_training_split_has_them(corpus: Path, tmp_path: Path) -> None:
    steps = tiny_steps(corpus, "model.standardise=true", "train.ema=0.9")
    data, scaling = steps.data, steps.state.network.video_scaling
    videos = sorted({annotation.video_id for annotation in data.annotations})
    rows = torch.cat([data.frames.take([video])[0] for video in videos])
    assert torch.allclose(scaling.mean, rows.mean(0), atol=1e-5)
    assert torch.allclose(scaling(rows).std(0, correction=0), torch.ones(rows.shape[1]), atol=1e-3)
    words = torch.cat([*data.words_of_all()])
    assert torch.allclose(steps.state.network.text_scaling(words).mean(0), torch.zeros(words.shape[1]), atol=1e-4)
    best = train_tiny(corpus, tmp_path, "model.standardise=true", "train.ema=0.9").load(BEST)
    assert best is not None
    assert any(name.endswith("video_scaling.mean") for name in best.tensors)


def test_word_vectors_are_kept_with_the_run(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", videos=4, test_videos=1)
    table = write_word_table(corpus / "features")
    overrides = ("features.text.encoder=glove", "features.text.unknown_words=vector", "train.epochs=1")
    run = train_tiny(corpus, tmp_path / "run", *overrides)
    best = run.load(BEST)
    assert best is not None
    assert len(best.meta["text"]["unknown_vector"]) == table.dim
    assert (run.path / WORD_TABLE_FILE).exists()


def test_plan_is_printed(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tiny(corpus, tmp_path, "train.epochs=1")
    said = capsys.readouterr().err
    assert "training tiny: 18 queries of 9 groups, 3 steps an epoch, 1 epochs" in said
    assert "parameters, frames 18, words 12, 15 word classes; cpu, fp32" in said


def test_validation_happens_when_it_is_due_and_at_the_end(corpus: Path, tmp_path: Path) -> None:
    run = train_tiny(corpus, tmp_path / "run", "train.validate_every=2", "train.epochs=3")
    assert ["validation" in row for row in run.metrics()] == [False, True, True]


@pytest.mark.parametrize(
    "lose",
    [lambda corpus: write_texts(corpus / "features", ["another"]), lambda corpus: None],
    ids=["texts are added", "nothing changes"],
)
def test_run_goes_on_when_features_are_added(tmp_path: Path, lose: Callable[[Path], object]) -> None:
    corpus = make_corpus(tmp_path / "corpus", videos=4, test_videos=1)
    train_tiny(corpus, tmp_path / "run", "train.epochs=1")
    lose(corpus)
    run = train_tiny(corpus, tmp_path / "run", "train.epochs=2")
    assert len(run.metrics()) == 2
