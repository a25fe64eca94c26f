"""The shipped settings of MSAT and of ActivityNet Captions train and evaluate on files of the datasets' layouts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline.config.errors import ConfigError
from mesm.pipeline.config.load import load_config, shipped_configs
from mesm.pipeline.data.texts import WORD_TABLE_FILE
from mesm.pipeline.evaluate.stage import evaluate
from mesm.pipeline.train.data import load_training_data
from mesm.pipeline.train.recipe import train
from mesm.pipeline.workspace import Workspace

CPU = torch.device("cpu")
WORDS = ("he", "cuts", "a", "pan", "takes", "out", "the", "board")
SENTENCES = ("He cuts a pan!", "takes out; the zzyzx board", "the board & a pan", "He takes/cuts")
GRIDS = [name for name in shipped_configs() if name.startswith(("msat-", "acb-"))]
OTHERS = [name for name in shipped_configs() if name.startswith("activitynet-c3d-")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grids")
    draw = np.random.default_rng(0)
    folders = {
        "tacos": ("c3d", 12, {"train": "train", "val": "val", "test": "test"}),
        "activitynet": ("c3d-activitynet", 6, {"train": "train", "val_1": "val_1", "val_2": "val_2"}),
    }
    vectors = np.concatenate([np.zeros((1, 9)), 3 * draw.standard_normal((len(WORDS), 9))]).astype(np.float32)
    WordVectors(("", *WORDS), vectors).save(folder / WORD_TABLE_FILE)
    for dataset, (encoder, dim, files) in folders.items():
        (folder / dataset).mkdir()
        spec = {"encoder": encoder, "dim": dim, "clip_len_s": "duration / rows"}
        with FeatureFolder.create_or_open(folder, encoder, spec).writer() as writer:
            for split, name in files.items():
                records = {}
                for number in range(5 if split == "train" else 2):
                    video = f"v_{split}{number}"
                    stamps = [[10 * i, 10 * i + 30 + number] for i in range(3)]
                    clock = {"fps": 10.0, "num_frames": 1000} if dataset == "tacos" else {"duration": 100.0}
                    key = f"{video}.avi" if dataset == "tacos" else video
                    sentences = [SENTENCES[(number + i) % 4] for i in range(3)]
                    records[key] = {**clock, "timestamps": stamps, "sentences": sentences}
                    rows = draw.random((20 + 100 * number, dim)).astype(np.float32)
                    writer.add(video, {"features": rows}, clip_len_s=100 / len(rows))
                (folder / dataset / f"{name}.json").write_text(json.dumps(records))
            writer.publish()
    return folder


def workspace(place: Path, name: str, *overrides: str) -> Workspace:
    torch.set_num_threads(1)
    sizes = ["model.dim=16", "model.heads=2", "model.feed_forward_dim=16", "train.epochs=1", "train.batch_groups=4"]
    config = load_config(name, [*sizes, "dataset.validation_fraction=0.2", *overrides])
    return Workspace(config, place / config.dataset.reader, place, CPU)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GRIDS, *OTHERS])
def test_a_setting_trains_and_evaluates_with_the_figures_of_its_protocol(
    name: str, place: Path, tmp_path: Path
) -> None:
    few = ["model.vtc_queue=40"] if "vtc" in name else []
    few += ["model.encoder_layers=1", "model.groups=1"] if name in GRIDS else []
    own = workspace(place, name, *few)
    run = train(own, tmp_path / "run")
    for published in (False, True):
        (result,) = evaluate(run.path, own.annotations, place, [], CPU, published)
        figures = next(iter(result.scores.values())).brief()
        for rank in (1, 5):
            recalls = [figures[f"MR-full-Rank{rank}@{threshold}"] for threshold in (0.1, 0.3, 0.5, 0.7)]
            assert recalls == sorted(recalls, reverse=True)  # type: ignore[type-var]
        assert figures["MR-full-Rank5@0.3"] >= figures["MR-full-Rank1@0.3"]  # type: ignore[operator]
        assert figures["MR-full-R1@0.5"] >= figures["MR-full-Rank1@0.5"]  # type: ignore[operator]


def test_words_are_as_published(place: Path) -> None:
    """Punctuation becomes spaces, unknown words zeros, others stay as they are; all words of training are classes."""
    data = load_training_data(workspace(place, "msat-tacos-c3d"))
    words = data.text.words("Takes out; the zzyzx-board, (HE)?")
    assert words.tokens == ("takes", "out", "the", "zzyzx", "board", "he")
    assert not words.vectors[3].any()
    assert float(np.linalg.norm(words.vectors[0])) > 1.5
    assert data.vocabulary.tokens[:5] == ("PAD", "he", "cuts", "a", "pan")
    assert data.vocabulary.label("neverheard") == data.vocabulary.classes - 1
    batch = data.train.batch(
        [0, 1, 2], [0, 1, 2], np.random.default_rng(0), load_config("msat-tacos-c3d").model.draws()
    )
    assert batch.word_mask is not None
    assert bool(batch.word_mask.masked.any(1).all())
    assert not bool((batch.word_mask.masked & ~batch.words.mask).any())
    assert max(batch.frames.lengths) <= 256


def test_queries_without_a_word_are_left_out_and_counted(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = workspace(place, "msat-tacos-c3d")
    records = json.loads((place / "tacos" / "train.json").read_text())
    records["v_train0.avi"]["sentences"][1] = "?! (-)"
    for split in ("val", "test"):
        (tmp_path / f"{split}.json").write_text((place / "tacos" / f"{split}.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(records))
    data = load_training_data(replace(own, annotations=tmp_path))
    assert len(data.train) == 14
    assert "1 queries without any word are left out, such as 1: '?! (-)'" in capsys.readouterr().err


def test_official_has_no_room_for_long_sentences() -> None:
    with pytest.raises(ConfigError, match=r"dataset.max_words is 128, with model.behaviour=official it is 65 at most"):
        load_config("msat-tacos-c3d", ["model.behaviour=official"])
    load_config("msat-tacos-c3d", ["model.behaviour=official", "dataset.max_words=65"])
