"""Training with a queue: a run that is stopped while the queue wraps goes on bit for bit; processes share one queue."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training
import torch
import yaml
from tiny_training import CONTENT, make_corpus, train_killed, train_tiny

from mesm.datasets.text.vocabulary import Vocabulary
from mesm.pipeline.config.errors import ConfigError, PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.evaluate.trained import load_trained
from mesm.pipeline.run.checkpoint import BEST, LAST
from mesm.pipeline.run.directory import RunDirectory

MODEL = {
    "network": "msat",
    "dim": 16,
    "heads": 2,
    "feed_forward_dim": 16,
    "clips": 8,
    "bins": 16,
    "encoder": "asymmetric",
    "groups": 1,
    "vtc": True,
    "vtc_queue": 13,
}
SURE = ("model.dropout=0", "train.epochs=3", "train.batch_groups=4")
"""Without dropout, which every process draws for itself."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_corpus(tmp_path_factory.mktemp("corpus"), videos=11)
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**CONTENT, "model": MODEL}))
    return folder


def tensors(run: RunDirectory, which: str = LAST) -> dict[str, torch.Tensor]:
    found = run.load(which)
    assert found is not None
    return found.tensors


@pytest.mark.slow
def test_a_run_killed_while_the_queue_wraps_goes_on_bit_for_bit(corpus: Path, tmp_path: Path) -> None:
    straight = train_tiny(corpus, tmp_path / "straight", "train.epochs=2", "train.ema=0.9")
    assert train_killed(corpus, tmp_path / "run", "train:step:4", ("train.epochs=2", "train.ema=0.9")) == -9
    held = tensors(RunDirectory(tmp_path / "run"))["model.contrast.queued"]
    pointer = int(tensors(RunDirectory(tmp_path / "run"))["model.contrast.pointer"])
    # Not at the beginning, and no place is empty: the queue has wrapped and is in the middle.
    assert 0 < pointer < len(held)
    assert int(held.min()) >= 0
    run = train_tiny(corpus, tmp_path / "run", "train.epochs=2", "train.ema=0.9")
    for which in (LAST, BEST):
        expected = tensors(straight, which)
        assert tensors(run, which).keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in tensors(run, which).items())
    assert [row["loss"] for row in run.metrics()] == [row["loss"] for row in straight.metrics()]


def test_the_queue_is_kept_to_go_on_and_not_with_the_answers(corpus: Path, tmp_path: Path) -> None:
    run = train_tiny(corpus, tmp_path / "run", "train.epochs=1")
    kept = {name.removeprefix("model.contrast.").split(".")[0] for name in tensors(run, BEST) if "contrast" in name}
    assert kept == {"visual_encoder", "text_encoder"}
    assert "model.contrast.video_queue" in tensors(run)
    trained = load_trained(run.path, torch.device("cpu"))
    assert isinstance(trained.vocabulary, Vocabulary)


def test_a_queue_smaller_than_a_batch_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.batch_groups is 4, the network keeps 3 queries \(model.vtc_queue\)"):
        load_config(corpus / "tiny.yaml", ["model.vtc_queue=3", "train.batch_groups=4"])
    with pytest.raises(PipelineError, match="a batch of 4 groups may hold 8 queries, the network keeps 5"):
        train_tiny(corpus, tmp_path / "run", "model.vtc_queue=5", "train.batch_groups=4")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("encoder", ["asymmetric", "decoupled"])
def test_processes_share_one_queue(corpus: Path, tmp_path: Path, processes: int, encoder: str) -> None:
    switches = (*SURE, f"model.encoder={encoder}", "model.encoder_layers=2")
    alone = train_tiny(corpus, tmp_path / "alone", *switches)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [tiny_training.__file__, str(corpus), str(tmp_path / "run"), *switches]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    run = RunDirectory(tmp_path / "run")
    for row, other in zip(run.metrics(), alone.metrics(), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=2e-4)
    found, expected = tensors(run), tensors(alone)
    for name in ("queued", "pointer", "steps"):
        assert torch.equal(found[f"model.contrast.{name}"], expected[f"model.contrast.{name}"])
    for name in ("video_queue", "text_queue", "slow_text_proj_weight"):
        torch.testing.assert_close(
            found[f"model.contrast.{name}"], expected[f"model.contrast.{name}"], atol=1e-4, rtol=0
        )
