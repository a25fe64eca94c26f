"""A comparison treats networks alike, says so, does nothing twice, and refuses what would make it unfair."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_network
from tiny_training import make_corpus, queries_of, tiny_config, train_tiny, workspace_of, write_streams

from mesm.datasets.annotations.records import Annotation
from mesm.model.registry import DEFAULT, NETWORKS
from mesm.pipeline import cli
from mesm.pipeline.config.errors import ConfigError, PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.splits import training_splits
from mesm.pipeline.evaluate.controls import answers_with
from mesm.pipeline.evaluate.grounding_gap import EXCHANGES
from mesm.pipeline.evaluate.metrics import evaluate_predictions
from mesm.pipeline.evaluate.predict import protocol_of
from mesm.pipeline.evaluate.trained import load_evaluation_data, load_trained
from mesm.pipeline.experiments import compare as stage
from mesm.pipeline.experiments import measure as measuring
from mesm.pipeline.experiments.compare import CompareOptions, Comparison, compare
from mesm.pipeline.experiments.costs import TrainingCosts, epoch_seconds, train_and_note
from mesm.pipeline.experiments.entrants import configurations, parse_networks
from mesm.pipeline.experiments.figures import NetworkFigures, table_of
from mesm.pipeline.experiments.measure import Measurement, answer_milliseconds, measure
from mesm.pipeline.experiments.seeds import FIGURES, best_figures
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.workspace import Workspace

CPU = torch.device("cpu")
TOY = toy_network.NAME
SEEDS = (3, 4)
EPOCHS = 2


@pytest.fixture(autouse=True, scope="module")
def _two_networks_trained_in_this_process() -> Iterator[None]:
    table: Any = NETWORKS
    whole = dict(table)
    with pytest.MonkeyPatch.context() as patch:
        table.clear()
        table.update({DEFAULT: whole[DEFAULT], TOY: toy_network.ENTRY})
        patch.setattr(stage, "train_apart", lambda *arguments: train_and_note(*arguments, threads=1))
        patch.setattr(measuring, "ANSWERS", 3)
        yield
    # In their order, which users see.
    table.clear()
    table.update(whole)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), videos=8)
    tiny_config(folder)
    return folder


def run(
    corpus: Path,
    out: Path,
    *overrides: str,
    networks: Sequence[str] = (DEFAULT, TOY),
    seeds: Sequence[int] = SEEDS,
    splits: Sequence[str] = ("validation",),
    select_on: str = "",
    epochs: int = EPOCHS,
    recipe: str = "",
) -> Comparison:
    configs = configurations(str(corpus / "tiny.yaml"), networks, recipe, overrides, epochs)
    workspace = workspace_of(corpus, next(iter(configs.values())))
    return compare(workspace, CompareOptions(configs, seeds, splits, select_on), out)


@pytest.fixture(scope="module")
def finished(corpus: Path) -> tuple[Path, Comparison]:
    return corpus / "compared", run(corpus, corpus / "compared")


@pytest.fixture
def begun(finished: tuple[Path, Comparison], tmp_path: Path) -> Path:
    """A copy of a finished comparison, to be spoilt."""
    return shutil.copytree(finished[0], tmp_path / "compared")


def runs_of(out: Path, network: str) -> list[RunDirectory]:
    return [RunDirectory(out / network / f"seed-{seed}") for seed in SEEDS]


def cells(comparison: Comparison, split: str, network: str) -> dict[str, str]:
    table = comparison.tables[split]
    return {name: texts[table.columns.index(network)] for name, texts in table.rows}


def forbid(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        pytest.fail(f"done again: {arguments}")

    for name in names:
        monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize("network", [DEFAULT, TOY])
def test_the_table_has_mean_and_deviation_of_the_best_epochs(finished: tuple[Path, Comparison], network: str) -> None:
    out, comparison = finished
    best = [best_figures(run) for run in runs_of(out, network)]
    shown = cells(comparison, "validation", network)
    for name in FIGURES:
        values = np.array([figures[name] for figures in best])
        assert shown[name] == f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


@pytest.mark.parametrize("network", [DEFAULT, TOY])
def test_controls_are_those_of_the_trained_networks(
    corpus: Path, finished: tuple[Path, Comparison], network: str
) -> None:
    out, comparison = finished
    blind, wrong = [], []
    for directory in runs_of(out, network):
        trained = load_trained(directory.path, CPU)
        _, held_back, _ = training_splits(trained.config, corpus / "annotations")
        data = load_evaluation_data(trained, held_back, corpus / "features")
        shown_frames = [data.frames.blanked(), *(data.frames.exchanged(i) for i in range(EXCHANGES))]
        answers = [answers_with(frames, trained, data) for frames in shown_frames]
        scores = [evaluate_predictions(one, held_back, protocol_of(trained.config)).full.miou for one in answers]
        blind.append(scores[0])
        wrong.append(np.mean(scores[1:]))
    shown = cells(comparison, "validation", network)
    assert shown["mIoU, no video"].startswith(f"{np.mean(np.array(blind, float)):.2f} ")
    assert shown["mIoU, wrong video"].startswith(f"{np.mean(wrong):.2f} ")
    assert any(f"mean of {EXCHANGES} exchanges" in note for note in comparison.notes)
    gap = float(shown["mIoU"].split()[0]) - np.mean(wrong)
    assert float(shown["grounding gap, mIoU"].split()[0]) == pytest.approx(gap, abs=0.02)
    assert " ± " in shown["grounding gap, R1@0.5"]
    assert float(shown["mIoU, other sentence"].split()[0]) > 0


def test_costs_stand_below_the_figures(finished: tuple[Path, Comparison]) -> None:
    out, comparison = finished
    for network in (DEFAULT, TOY):
        shown, runs = cells(comparison, "validation", network), runs_of(out, network)
        parameters = sum(p.numel() for p in load_trained(runs[0].path, CPU).network.parameters())
        assert shown["parameters"] == f"{parameters:,}"
        seconds = np.median([row["seconds"] for run in runs for row in run.metrics()])
        assert shown["seconds an epoch"] == f"{seconds:.2f}"
        memory = max(TrainingCosts.of(run).peak_memory_bytes or 0 for run in runs)
        assert shown["peak memory, MiB"] == f"{memory / 2**20:,.0f}"
        assert float(shown["milliseconds an answer"]) > 0


def test_a_fixed_window_stands_beside_the_networks(finished: tuple[Path, Comparison]) -> None:
    _, comparison = finished
    *networks, baseline = comparison.tables["validation"].columns
    assert networks == [DEFAULT, TOY]
    assert baseline.startswith("fixed window")
    shown = cells(comparison, "validation", baseline)
    assert float(shown["mIoU"]) > 0
    assert shown["parameters"] == shown["mIoU, no video"] == "-"


def test_conditions_are_written_down(corpus: Path, finished: tuple[Path, Comparison]) -> None:
    out, comparison = finished
    record = json.loads((out / "compare.json").read_text())
    assert record == comparison.record
    conditions = record["conditions"]
    checkpoint = runs_of(out, TOY)[1].load(BEST)
    assert checkpoint is not None
    assert conditions["seeds"] == list(SEEDS)
    assert conditions["train"] == {"epochs": EPOCHS, "select_by": "mIoU", "validate_every": 1}
    assert conditions["fingerprints"] == checkpoint.meta["fingerprints"]
    assert conditions["trained_queries"] == checkpoint.meta["queries"]
    assert conditions["selected_on"] == checkpoint.meta["validation"]
    assert checkpoint.meta["versions"].items() <= conditions["versions"].items()
    assert record["networks"][TOY]["model"] == {"network": TOY, "dim": 4, "blobs": 1}
    page = (out / "compare.html").read_text()
    assert cells(comparison, "validation", TOY)["R1@0.5"] in page
    assert "chosen on the very queries of validation" in page


def test_what_is_done_is_not_done_again(
    corpus: Path, finished: tuple[Path, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, comparison = finished
    forbid(monkeypatch, stage, "train_apart")
    forbid(monkeypatch, measuring, "load_trained")
    page = (out / "compare.html").read_bytes()
    assert run(corpus, out) == comparison
    assert (out / "compare.html").read_bytes() == page


def test_an_interrupted_comparison_goes_on_where_it_stopped(
    corpus: Path, finished: tuple[Path, Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def counted(run: RunDirectory, workspace: Workspace, split: str, queries: Sequence[Annotation]) -> Measurement:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(run.path.name)
        return measure(run, workspace, split, queries)

    monkeypatch.setattr(stage, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "out", networks=[TOY])
    monkeypatch.undo()
    trained = [(run.path / "checkpoint-last.safetensors").stat().st_mtime_ns for run in runs_of(tmp_path / "out", TOY)]
    measured = tmp_path / "out" / TOY / "seed-3" / "measured-validation.json"
    before = measured.stat().st_mtime_ns
    comparison = run(corpus, tmp_path / "out", networks=[TOY])
    assert measured.stat().st_mtime_ns == before
    for directory, time in zip(runs_of(tmp_path / "out", TOY), trained, strict=True):
        assert (directory.path / "checkpoint-last.safetensors").stat().st_mtime_ns == time
    scores = comparison.record["splits"]["validation"]["networks"][TOY]["scores"]
    assert scores == finished[1].record["splits"]["validation"]["networks"][TOY]["scores"]


def test_a_network_may_be_added_and_only_it_is_trained(
    corpus: Path, finished: tuple[Path, Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    shutil.rmtree(out / TOY)
    trained = []
    monkeypatch.setattr(
        stage, "train_apart", lambda w, out, select_on: (trained.append(out), train_and_note(w, out, select_on, 1))
    )
    comparison = run(corpus, out)
    assert trained == [out / TOY / f"seed-{seed}" for seed in SEEDS]
    for name, text in cells(finished[1], "validation", TOY).items():
        if "seconds" not in name and "memory" not in name:
            assert cells(comparison, "validation", TOY)[name] == text or name == "milliseconds an answer"


def test_a_changed_checkpoint_is_measured_again(corpus: Path, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = runs_of(begun, TOY)
    best = second.load(BEST)
    assert best is not None
    best.tensors["model.edges.bias"] = best.tensors["model.edges.bias"] + torch.tensor([9.0, -9.0])
    second.save(BEST, best.tensors, best.meta)
    loaded = []
    real = measuring.load_trained
    monkeypatch.setattr(measuring, "load_trained", lambda path, device: (loaded.append(path), real(path, device))[1])
    comparison = run(corpus, begun)
    assert loaded == [second.path]
    values = comparison.record["splits"]["validation"]["networks"][TOY]["scores"]["mIoU"]["seeds"]
    assert values[0] == best_figures(first)["mIoU"]
    assert values[1] != best_figures(second)["mIoU"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 3}, "train.epochs: 2 there, 3 here"),
        ({"seeds": (3, 5)}, r"seeds: \[3, 4\] there, \[3, 5\] here"),
        ({"select_on": "test", "splits": ("test",)}, "selected_on: 25% of the train videos .* there, test here"),
    ],
)
def test_other_settings_are_refused_by_name(
    corpus: Path, finished: tuple[Path, Comparison], changes: dict[str, Any], words: str
) -> None:
    before = (finished[0] / "compare.json").read_bytes()
    with pytest.raises(PipelineError, match=words):
        run(corpus, finished[0], **changes)
    assert (finished[0] / "compare.json").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dataset.max_rows=15", "dataset.max_rows: 16 there, 15 here"),
        ("train.select_by=mAP", "train.select_by: mIoU there, mAP here"),
        ("train.lr=1e-4", f"{TOY}.train.lr: 0.001 there, 0.0001 here"),
        ("model.dim=8", f"{TOY}.model.dim: 4 there, 8 here"),
        ("evaluate.nms=0.5", "evaluate.nms: -1.0 there, 0.5 here"),
    ],
)
def test_other_options_are_refused_by_name(
    corpus: Path, finished: tuple[Path, Comparison], override: str, words: str
) -> None:
    with pytest.raises(PipelineError, match=words):
        run(corpus, finished[0], override, networks=[TOY])


def test_other_versions_and_features_are_refused(
    corpus: Path, finished: tuple[Path, Comparison], begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stage.version
    monkeypatch.setattr(stage, "version", lambda name: "9.9" if name == "numpy" else real(name))
    with pytest.raises(PipelineError, match=r"versions.numpy: .* there, 9.9 here"):
        run(corpus, begun)
    (begun / "compare.json").unlink()
    with pytest.raises(PipelineError, match=r"seed-3 was trained for 2 epochs by .*not for 2 by .*9\.9"):
        run(corpus, begun)
    monkeypatch.setattr(stage, "version", real)
    other = shutil.copytree(corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("compared", "first-*"))
    streams = {f"v{number:02}": (np.ones((8 + number % 5, 8), np.float32),) * 2 for number in range(12)}
    write_streams(other / "features", streams, version=1, names=("first",))
    with pytest.raises(PipelineError, match=r"fingerprints.first: \w+ there, \w+ here"):
        run(other, finished[0])


def test_a_run_that_was_trained_otherwise_is_refused(corpus: Path, begun: Path, tmp_path: Path) -> None:
    (begun / "compare.json").unlink()
    with pytest.raises(PipelineError, match=r"was trained for 2 epochs .*not for 3"):
        run(corpus, begun, epochs=3)
    (begun / "compare.json").unlink()
    metrics = RunDirectory(begun / TOY / "seed-4")
    metrics.set_metrics(metrics.metrics()[:1])
    with pytest.raises(PipelineError, match="expected the metrics of 2 epochs, found those of 1"):
        run(corpus, begun)
    train_tiny(corpus, tmp_path / "out" / TOY / "seed-3", f"train.epochs={EPOCHS}", "train.seed=3")
    with pytest.raises(PipelineError, match=f"holds a run of the network {DEFAULT}, not of {TOY}"):
        run(corpus, tmp_path / "out", networks=[TOY])


def test_a_foreign_record_is_not_overwritten(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text("[]")
    with pytest.raises(PipelineError, match="not the record of a comparison"):
        run(corpus, tmp_path)
    assert (tmp_path / "compare.json").read_text() == "[]"


def test_networks_are_read_from_text() -> None:
    assert parse_networks("") == [DEFAULT, TOY]
    assert parse_networks(f"{TOY}, {DEFAULT}") == [TOY, DEFAULT]
    with pytest.raises(PipelineError, match=r"no network 'tox' \(did you mean 'toy'\?\)"):
        parse_networks(f"{DEFAULT},tox")
    with pytest.raises(PipelineError, match="twice"):
        parse_networks(f"{TOY},{TOY}")


def configs_of(corpus: Path, *overrides: str, recipe: str = "", epochs: int | None = None) -> dict[str, Config]:
    return configurations(str(corpus / "tiny.yaml"), [DEFAULT, TOY], recipe, overrides, epochs)


def test_an_option_that_one_network_lacks_is_an_error_that_says_so(corpus: Path) -> None:
    assert [config.model.dim for config in configs_of(corpus, "model.dim=8").values()] == [8, 8]
    with pytest.raises(ConfigError, match=rf"(?s)^{DEFAULT}: .*model.blobs: unknown key.*network {TOY}") as found:
        configs_of(corpus, "model.blobs=2")
    assert f"\n{TOY}: " not in str(found.value)
    with pytest.raises(ConfigError) as found:
        configs_of(corpus, "model.blobs=2", "model.heads=2")
    assert f"{DEFAULT}: " in str(found.value)
    assert f"\n{TOY}: " in str(found.value)


@pytest.mark.parametrize(
    ("override", "option"),
    [("train.seed=3", "--seeds"), (f"model.network={TOY}", "--networks"), ("train.epochs=9", "--epochs")],
)
def test_what_has_an_option_of_its_own_cannot_be_set(corpus: Path, override: str, option: str) -> None:
    with pytest.raises(PipelineError, match=option):
        configs_of(corpus, override, epochs=2)


def test_epochs_can_be_set_without_the_option(corpus: Path) -> None:
    assert {config.train.epochs for config in configs_of(corpus, "train.epochs=9").values()} == {9}


def test_a_recipe_may_treat_networks_differently_only_in_what_is_their_own(corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"networks: {{{TOY}: {{train: {{epochs: 3}}}}}}\n")
    with pytest.raises(PipelineError, match=f"alike .{DEFAULT} there, {TOY} here.*\n.*train.epochs: 6 there, 3 here"):
        configs_of(corpus, recipe=str(recipe))
    recipe.write_text(f"networks: {{{TOY}: {{model: {{dim: 8}}, train: {{lr: 0.01}}}}}}\n")
    configs = configs_of(corpus, recipe=str(recipe), epochs=1)
    assert configs[TOY].model.dim == 8
    options = CompareOptions(configs, [1], ["validation"])
    material = stage.read_material(workspace_of(corpus, configs[TOY]), options)
    notes = list(stage.notes_on_training(configs, material))
    assert f"train.lr is not equal: 0.001 ({DEFAULT}), 0.01 ({TOY})." in notes


def test_splits_are_the_configured_ones_or_those_asked_for(
    corpus: Path, finished: tuple[Path, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = finished
    forbid(monkeypatch, stage, "train_apart")
    comparison = run(corpus, out, splits=())
    assert list(comparison.tables) == ["test"]
    assert comparison.record["splits"]["test"]["queries"] == len(queries_of(corpus, "test"))
    assert not any("too good" in note for note in comparison.notes)
    both = run(corpus, out, splits=["test", "validation"])
    assert both.tables["test"].rows == comparison.tables["test"].rows
    assert list(both.tables) == ["test", "validation"]
    with pytest.raises(PipelineError, match="nothing is held back"):
        run(corpus, out, select_on="test")


def test_a_split_without_moments_is_left_out_or_an_error(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_a_hidden_split(
        config: Config, place: Path, splits: Sequence[str]
    ) -> tuple[dict[str, list[Annotation]], list[Annotation]]:
        queries = queries_of(corpus, "test")
        hidden = [replace(query, moments=()) for query in queries]
        return {split: hidden if split == "hidden" else queries for split in splits}, queries

    monkeypatch.setattr(stage, "read_splits", with_a_hidden_split)
    configs = configurations(str(corpus / "tiny.yaml"), [TOY], overrides=["dataset.test_splits=[test, hidden]"])
    workspace = workspace_of(corpus, configs[TOY])
    assert list(stage.read_material(workspace, CompareOptions(configs, [1])).splits) == ["test"]
    assert "the split hidden has a moment" in capsys.readouterr().err
    with pytest.raises(PipelineError, match="no query of the split hidden has a moment"):
        stage.read_material(workspace, CompareOptions(configs, [1], ["hidden"]))


def test_missing_features_are_found_before_anything_is_trained(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, stage, "train_apart")
    other = shutil.copytree(corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("compared"))
    line = json.loads((other / "annotations" / "test.jsonl").read_text().splitlines()[0])
    with (other / "annotations" / "test.jsonl").open("a") as file:
        file.write(json.dumps(line | {"query_id": 999, "video_id": "absent"}) + "\n")
    with pytest.raises(Exception, match="absent"):
        run(other, tmp_path / "out", splits=["test"])


def test_answers_are_timed_one_query_at_a_time(corpus: Path, finished: tuple[Path, Comparison]) -> None:
    trained = load_trained(finished[0] / TOY / "seed-3", CPU)
    data = load_evaluation_data(trained, queries_of(corpus, "test"), corpus / "features")
    seen = []
    trained.network.register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0].count, torch.is_inference_mode_enabled()))
    )
    assert answer_milliseconds(trained, data) > 0
    assert set(seen) == {(1, True)}
    assert len(seen) > measuring.ANSWERS


def test_epochs_that_were_taken_up_again_are_not_timed(corpus: Path, tmp_path: Path) -> None:
    whole = RunDirectory(tmp_path / "whole")
    config = replace(tiny_config(corpus), train=replace(tiny_config(corpus).train, epochs=EPOCHS))
    train_and_note(workspace_of(corpus, config), whole.path, "", 1)
    assert epoch_seconds(whole) == [row["seconds"] for row in whole.metrics()]
    broken = RunDirectory(tmp_path / "broken")
    with pytest.MonkeyPatch.context() as patch:
        calls = []

        def stop_in_the_second_epoch(name: str) -> None:
            calls.append(name)
            if len(calls) == 4:
                raise KeyboardInterrupt

        patch.setattr("mesm.pipeline.train.recipe.write_point", stop_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            train_and_note(workspace_of(corpus, config), broken.path, "", 1)
    train_and_note(workspace_of(corpus, config), broken.path, "", 1)
    costs = TrainingCosts.of(broken)
    assert len(costs.continued) == 1
    assert epoch_seconds(broken) == [r["seconds"] for r in broken.metrics() if r["epoch"] != costs.continued[0]]
    assert [row["loss"] for row in broken.metrics()] == [row["loss"] for row in whole.metrics()]


def test_one_seed_has_no_deviation_and_what_is_unknown_is_a_dash() -> None:
    figures = {"MR-full-R1@0.5": 30.0, "MR-full-miou": 28.0}
    lone = Measurement(figures, figures, [], None, {}, 7, 1.5)
    table = table_of({"any": NetworkFigures.of([lone], [], [None])}, "whole video", figures)
    rows = dict(table.rows)
    assert rows["R1@0.5"] == ("30.00", "30.00")
    assert rows["R1@0.3"] == ("-", "-")
    assert rows["R1@0.5, no video"] == ("30.00", "-")
    assert rows["R1@0.5, wrong video"] == ("-", "-")
    assert rows["seconds an epoch"] == rows["peak memory, MiB"] == ("-", "-")
    assert rows["milliseconds an answer"] == ("1.50", "-")


def test_the_command_prints_the_table_or_json(
    corpus: Path, finished: tuple[Path, Comparison], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, comparison = finished
    arguments = ["compare", "--networks", f"{DEFAULT},{TOY}", "--config", str(corpus / "tiny.yaml"), "--seeds", "3,4"]
    arguments += ["--annotations", str(corpus / "annotations"), "--features", str(corpus / "features"), "--epochs", "2"]
    arguments += ["--split", "validation", "--device", "cpu", "--out", str(out)]
    assert cli.run(arguments) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[1].split()[:2] == [DEFAULT, TOY]
    assert cells(comparison, "validation", TOY)["mIoU"] in shown
    assert comparison.notes[0] in lines
    assert cli.run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == comparison.record
    assert cli.run([*arguments, "--networks", "tox"]) == 2
    assert "did you mean 'toy'" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.run(arguments) == 2
    assert "torchrun" in capsys.readouterr().err


@pytest.mark.slow
def test_trainings_in_processes_of_their_own_survive_a_kill(
    corpus: Path, finished: tuple[Path, Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mesm.pipeline.experiments.costs import train_apart

    monkeypatch.setattr(stage, "train_apart", train_apart)
    monkeypatch.setenv("MESM_FAULT", "train:step:4")
    with pytest.raises(PipelineError, match="signal SIGKILL"):
        run(corpus, tmp_path, networks=[TOY], seeds=[3])
    assert len(RunDirectory(tmp_path / TOY / "seed-3").metrics()) == 1
    monkeypatch.delenv("MESM_FAULT")
    run(corpus, tmp_path, networks=[TOY], seeds=[3])
    killed, whole = RunDirectory(tmp_path / TOY / "seed-3"), runs_of(finished[0], TOY)[0]
    assert [row["loss"] for row in killed.metrics()] == [row["loss"] for row in whole.metrics()]
    costs = TrainingCosts.of(killed)
    assert costs.continued == (1,)
    assert costs.peak_memory_bytes is not None
