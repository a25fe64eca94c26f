"""Reproducing a setting: what is missing is named, several seeds are summed up, the paper's row stands beside ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_training import make_corpus, tiny_config, train_tiny, workspace_of

from mesm.datasets.shards.folder import FeatureFolder
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.experiments import reproduce
from mesm.pipeline.experiments.paper import PublishedSetting, published_settings
from mesm.pipeline.experiments.seeds import best_figures, parse_seeds, summary
from mesm.pipeline.train.recipe import train_seeds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), videos=8)
    tiny_config(folder)
    return folder


def test_seeds_give_runs_of_their_own_and_one_table(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, "train.epochs=2")
    runs = train_seeds(workspace_of(corpus, config), tmp_path, [3, 4])
    assert [run.path.name for run in runs.values()] == ["seed-3", "seed-4"]
    figures = {f"seed {seed}": best_figures(run) for seed, run in runs.items()}
    assert runs[3].metrics() != runs[4].metrics()
    table = dict(summary(figures).rows)
    values = np.array([table["seed 3"], table["seed 4"]], float)
    assert np.allclose(np.array(table["mean"], float), values.mean(0))
    assert np.allclose(np.array(table["deviation"], float), values.std(0, ddof=1))
    alone = train_tiny(corpus, tmp_path / "alone", "train.epochs=2", "train.seed=4")
    assert [row["loss"] for row in alone.metrics()] == [row["loss"] for row in runs[4].metrics()]


def test_seeds_are_read_from_text() -> None:
    assert parse_seeds("0, 1,22") == [0, 1, 22]
    for wrong in ("", "1,", "a", "-1", "2,2"):
        with pytest.raises(PipelineError, match="--seeds"):
            parse_seeds(wrong)


def test_recipe_changes_how_not_what_is_trained(tmp_path: Path) -> None:
    plain, fast = load_config("tacos-c3d-glove"), load_config("tacos-c3d-glove", recipe="fast")
    assert fast.dataset == plain.dataset
    assert fast.features == plain.features
    assert fast.name == plain.name
    assert fast.train != plain.train
    assert fast.model.separate_word_feed_forward
    assert load_config("tacos-c3d-glove", ["train.lr=0.1"], recipe="fast").train.lr == 0.1
    own = tmp_path / "mine.yaml"
    own.write_text("train: {lr: 0.5}\n")
    assert load_config("demo", recipe=str(own)).train.lr == 0.5


def write_charades(folder: Path) -> Path:
    """Annotation files of Charades-STA with three videos, and GloVe's table, but no video features."""
    folder.mkdir()
    for split in ("train", "test"):
        lines = [f"{split}{i} 0.0 {i + 2}.0##a person opens a door" for i in range(3)]
        (folder / f"charades_sta_{split}.txt").write_text("\n".join(lines) + "\n")
        rows = "".join(f"{split}{i},20.0\n" for i in range(3))
        (folder / f"Charades_v1_{split}.csv").write_text("id,length\n" + rows)
    return folder


def test_what_is_missing_is_named_with_a_way_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, features = write_charades(tmp_path / "charades"), tmp_path / "features"
    features.mkdir()
    arguments = ["reproduce", "charades-vgg-glove", "--annotations", str(annotations), "--features", str(features)]
    assert cli.run([*arguments, "--check"]) == 1
    shown = capsys.readouterr().out
    assert "ok      annotations, train: 3 queries of 3 videos" in shown
    assert "MISSING features, vgg16" in shown
    assert "import-features vgg.hdf5 --name vgg16 --clip-len 0.17" in shown
    assert "MISSING text, glove" in shown
    assert cli.run(arguments) == 2
    assert "features, vgg16, text, glove missing" in capsys.readouterr().err
    folder = FeatureFolder.create_or_open(features, "vgg16", {"encoder": "vgg16", "dim": 4096, "imported": True})
    with folder.writer() as writer:
        for video in ("train0", "train1", "train2", "test0"):
            writer.add(video, {"features": np.ones((118, 4), np.float32)}, clip_len_s=0.17)
        writer.publish()
    assert cli.run([*arguments, "--check"]) == 1
    assert "lacks 2 videos, among them test1, test2" in capsys.readouterr().out


def test_the_papers_row_stands_beside_the_mean_of_ours(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = PublishedSetting("a table", "", {"test": {"R1@0.5": 50.0, "mIoU": 40.0}})
    monkeypatch.setitem(published_settings(), "tiny", row)
    monkeypatch.setattr(reproduce, "RELEASED", {"first": "a.hdf5", "second": "b.hdf5"})
    config = tiny_config(corpus, "train.epochs=1")
    tables = reproduce.reproduce("tiny", workspace_of(corpus, config), tmp_path, [1, 2], "")
    rows = dict(tables["test"].rows)
    assert tables["test"].columns == ("R1@0.5", "mIoU")
    assert rows["paper"] == (50.0, 40.0)
    ours = rows["ours, mean of 2"]
    assert np.allclose(np.array(rows["ours - paper"], float), np.array(ours, float) - [50.0, 40.0])
    assert "deviation" in rows


@pytest.mark.parametrize("setting", list(published_settings()))
def test_every_setting_of_the_paper_has_a_configuration(setting: str) -> None:
    config = reproduce.setting_config(setting, published=True, overrides=[])
    assert config.train.epochs == published_settings()[setting].epochs
    assert config.evaluate.published
    assert set(published_settings()[setting].rows) <= set(config.dataset.test_splits)
    assert all(stream.encoder in reproduce.RELEASED for stream in config.features.video)
