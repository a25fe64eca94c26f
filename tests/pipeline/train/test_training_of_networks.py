"""Every network of the registry that learns trains, is killed and goes on, evaluates, and refuses what is another's."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from tiny_training import CONTENT, make_corpus, tiny_config, workspace_of, write_narrations, write_word_table

from mesm.model.registry import NETWORKS, networks_that_learn
from mesm.pipeline.config.errors import ConfigError, PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import Config
from mesm.pipeline.evaluate.stage import evaluate
from mesm.pipeline.run.checkpoint import BEST, LAST
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.train.recipe import train
from mesm.pipeline.train.step import Steps

CPU = torch.device("cpu")
SMALL = {"dim": 16, "heads": 2, "feed_forward_dim": 16, "clips": 16}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"))
    tiny_config(folder)
    write_word_table(folder / "features")
    write_narrations(folder)
    return folder


def config_of(corpus: Path, network: str, *overrides: str) -> Config:
    known = {f.name for f in fields(NETWORKS[network].config_class())}
    sizes = [f"model.{name}={value}" for name, value in SMALL.items() if name in known]
    if NETWORKS[network].config_class()().reads_narration():
        sizes.append("features.text.encoder=glove")
    return load_config(corpus / "tiny.yaml", [*sizes, "train.epochs=2", *overrides], network=network)


class KilledError(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("network", networks_that_learn())
def test_stopped_run_resumes_bit_for_bit_and_evaluates(
    network: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = workspace_of(corpus, config_of(corpus, network))
    straight = train(workspace, tmp_path / "straight")
    take, taken = Steps.take, []

    def dying(steps: Steps, groups: list[int], step: int) -> object:
        taken.append(step)
        if len(taken) == 5:
            raise KilledError
        return take(steps, groups, step)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "take", dying)
        with pytest.raises(KilledError):
            train(workspace, tmp_path / "run")
    run = train(workspace, tmp_path / "run")
    for which in (LAST, BEST):
        found, expected = run.load(which), straight.load(which)
        assert found is not None
        assert expected is not None
        assert found.tensors.keys() == expected.tensors.keys()
        assert all(torch.equal(value, expected.tensors[name]) for name, value in found.tensors.items())
    assert [row["loss"] for row in run.metrics()] == [row["loss"] for row in straight.metrics()]
    (result,) = evaluate(run.path, corpus / "annotations", corpus / "features", [], CPU, published=False)
    assert 0 < next(iter(result.scores.values())).full.miou < 100


@pytest.mark.parametrize("network", networks_that_learn())
def test_groups_of_one_query_train(network: str, corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, network, "dataset.group_by=query", "train.batch_groups=4", "train.epochs=1")
    assert train(workspace_of(corpus, config), tmp_path / "run").metrics()


@pytest.mark.parametrize("network", networks_that_learn())
def test_recipe_has_a_part_for_the_network(network: str, corpus: Path) -> None:
    fast = load_config(corpus / "tiny.yaml", recipe="fast", network=network)
    assert fast.model.name == network
    assert fast.train.schedule == "cosine"


def test_run_of_another_network_is_refused_with_both_names(corpus: Path, tmp_path: Path) -> None:
    train(workspace_of(corpus, config_of(corpus, "qd-detr", "train.epochs=1")), tmp_path / "run")
    with pytest.raises(PipelineError, match=r"run of the network qd-detr, not of moment-detr.*--network"):
        train(workspace_of(corpus, config_of(corpus, "moment-detr", "train.epochs=1")), tmp_path / "run")
    assert RunDirectory(tmp_path / "run").metrics()


def test_options_of_another_network_are_all_named_with_their_owner(corpus: Path) -> None:
    keys = sorted(set(CONTENT["model"]) - {f.name for f in fields(NETWORKS["qd-detr"].config_class())})
    with pytest.raises(ConfigError) as caught:
        load_config(corpus / "tiny.yaml", ["model.network=qd-detr", "loss.rebuild_words=1"])
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == len(keys) + 1
    for key in keys:
        assert any(f"model.{key}: unknown key" in line and "network mesm" in line for line in lines)
    assert any("loss.rebuild_words: unknown key" in line and "network mesm" in line for line in lines)


def test_unknown_network_has_a_nearest_name(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"no network 'qd-dert' \(did you mean 'qd-detr'\?\)"):
        load_config(corpus / "tiny.yaml", ["model.network=qd-dert"])
    with pytest.raises(ConfigError, match=r"did you mean 'moment-detr'"):
        load_config(corpus / "tiny.yaml", network="moment-detre")
