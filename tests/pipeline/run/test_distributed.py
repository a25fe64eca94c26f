"""Training by several processes: the losses of one process, resumed by any number of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_training
import torch
from tiny_training import make_corpus, tiny_config, tiny_steps, train_tiny

from mesm.model.network_config import Draw
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.checkpoint import BEST, LAST
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.distributed import World

CPU = torch.device("cpu")
SURE = ("model.dropout=0", "model.input_dropout=0", "train.epochs=4", "loss.triplet=true")
"""Without dropout, which every process draws for itself."""

DRAWS = Draw.OTHER_QUERY | Draw.MASKED_WORDS | Draw.ROW_PAIRS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), videos=11)
    tiny_config(folder)
    return folder


@pytest.fixture(scope="module")
def alone(corpus: Path) -> RunDirectory:
    return train_tiny(corpus, corpus / "alone", *SURE)


def train_with(processes: int, corpus: Path, out: Path, *overrides: str, fault: str = "") -> int:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        tiny_training.__file__,
        str(corpus),
        str(out),
        *SURE,
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"MESM_FAULT": fault} if fault else {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode and not fault:
        raise AssertionError(done.stderr[-3000:])
    return done.returncode


def assert_close(run: RunDirectory, expected: RunDirectory) -> None:
    rows, wanted = run.metrics(), expected.metrics()
    assert [row["epoch"] for row in rows] == [row["epoch"] for row in wanted]
    for row, other in zip(rows, wanted, strict=True):
        assert row["loss"].keys() == other["loss"].keys()
        for name, value in other["loss"].items():
            assert row["loss"][name] == pytest.approx(value, rel=2e-4), (row["epoch"], name)
        assert row["loss"] == pytest.approx(other["loss"], rel=2e-4)
    first, others = (
        torch.cat([tensor.flatten() for tensor in r.load(LAST).part("model").values()])  # type: ignore[union-attr]
        for r in (run, expected)
    )
    assert float((first - others).norm() / others.norm()) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_have_the_losses_of_one(
    corpus: Path, alone: RunDirectory, tmp_path: Path, processes: int
) -> None:
    """Batches are of three groups, so that with four processes one always has none."""
    assert train_with(processes, corpus, tmp_path / "run") == 0
    assert_close(RunDirectory(tmp_path / "run"), alone)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_several_windows_a_query_weigh_as_in_one_process(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", videos=11)
    path = folder / "annotations" / "train.jsonl"
    lines = path.read_text().splitlines()
    lines[::3] = [line.replace('"moments": [[', '"moments": [[0, 1], [') for line in lines[::3]]
    path.write_text("\n".join(lines) + "\n")
    expected = train_tiny(folder, tmp_path / "alone", *SURE)
    assert train_with(2, folder, tmp_path / "run") == 0
    assert_close(RunDirectory(tmp_path / "run"), expected)


@pytest.mark.slow
def test_recipe_has_the_same_losses_in_several_processes(corpus: Path, tmp_path: Path) -> None:
    switches = (
        "model.encoder_loss=bce",
        "model.recurrent_words=true",
        "model.recurrent_frames=true",
        "model.positions=frames",
        "evaluate.rank_by=frames",
        "train.ema=0.9",
        "train.crop=0.5",
    )
    expected = train_tiny(corpus, tmp_path / "alone", *SURE, *switches)
    assert train_with(2, corpus, tmp_path / "run", *switches) == 0
    assert_close(RunDirectory(tmp_path / "run"), expected)


@pytest.mark.slow
def test_killed_run_goes_on_with_another_number_of_processes(corpus: Path, alone: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train_with(2, corpus, out, fault="train:step:6") != 0
    last = RunDirectory(out).load(LAST)
    assert last is not None
    assert 0 < last.meta["state"]["epoch"] < 4
    train_tiny(corpus, out, *SURE)
    assert_close(RunDirectory(out), alone)
    best = RunDirectory(out).load(BEST)
    assert best is not None


def test_shares_are_contiguous_and_cover_everything() -> None:
    for size in (1, 2, 3, 7):
        parts = [World(rank, size).share(list(range(5))) for rank in range(size)]
        assert [item for part in parts for item in part] == list(range(5))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("option", ["model.masks=official", "model.context=attention", "model.segment_context=group"])
def test_what_spans_a_batch_is_refused(corpus: Path, tmp_path: Path, option: str) -> None:
    with pytest.raises(PipelineError, match=option):
        tiny_steps(corpus, option, world=World(0, 2))


@pytest.mark.parametrize("size", [2, 3])
def test_parts_of_a_batch_are_rows_of_the_whole(corpus: Path, size: int) -> None:
    """Whatever is drawn is the same in every process, and negatives of other processes lend their words."""

    data = tiny_steps(corpus, *SURE).data
    indices, groups = data.queries_of([0, 1, 2])
    whole = data.batch(indices, groups, np.random.default_rng(5), DRAWS)
    assert whole.negative_query is not None
    assert whole.targets is not None
    assert whole.word_mask is not None
    start = 0
    for rank in range(size):
        own = [i for i, group in enumerate(groups) if group in World(rank, size).share([0, 1, 2])]
        part = data.batch(indices, groups, np.random.default_rng(5), DRAWS, part=range(own[0], own[-1] + 1))
        assert part.count == len(own)
        assert part.negative_query is not None
        assert part.targets is not None
        assert part.word_mask is not None
        lent = whole.words.vectors[whole.negative_query[own]]
        width = part.words.vectors.shape[1]
        assert torch.equal(part.words.vectors[part.negative_query], lent[:, :width])
        assert not lent[:, width:].any()
        assert torch.equal(part.words.vectors[: part.count], whole.words.vectors[own][:, :width])
        assert torch.equal(part.word_mask.masked, whole.word_mask.masked[own][:, :width])
        rows = part.targets.clip_mask.shape[1]
        assert torch.equal(part.targets.windows, whole.targets.windows[own])
        assert torch.equal(part.targets.positive, whole.targets.positive[own])
        common = min(rows, whole.targets.clip_mask.shape[1])
        assert torch.equal(part.targets.clip_mask[:, :common], whole.targets.clip_mask[own][:, :common])
        start += len(own)
    assert start == len(indices)
