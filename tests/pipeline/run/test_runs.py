"""Run directories: checkpoints appear whole or not at all, and what cannot be read or written is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.faults import FAULT_VARIABLE
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.checkpoint import BEST, LAST, load_checkpoint, optimiser_tensors, restore_optimiser
from mesm.pipeline.run.directory import RunDirectory

META = {"state": {"epoch": 3}, "note": "schön"}


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"model.a": torch.full((2, 3), value), "model.b.c": torch.arange(3), "optimiser.step.a": torch.tensor(4.0)}


def a_run(place: Path) -> RunDirectory:
    run = RunDirectory(place / "run")
    run.create()
    return run


def test_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    run.save(LAST, tensors(), META)
    checkpoint = run.load(LAST)
    assert checkpoint is not None
    assert checkpoint.meta == {**META, "format": 1}
    for name, value in tensors().items():
        assert torch.equal(checkpoint.tensors[name], value)
        assert checkpoint.tensors[name].dtype == value.dtype
    assert set(checkpoint.part("model")) == {"a", "b.c"}
    assert run.load(BEST) is None
    content = run.checkpoint_path(LAST).read_bytes()
    for _ in range(8):
        run.save(LAST, tensors(), META)
        assert run.checkpoint_path(LAST).read_bytes() == content


def test_transposed_tensor_is_stored(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    run.save(BEST, {"model.a": torch.arange(6).view(2, 3).t()}, {})
    assert load_checkpoint(run.path).part("model")["a"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("checkpoint:before-write", 1.0),
        ("checkpoint:half-written", 1.0),
        ("checkpoint:published", 2.0),
        ("checkpoint:half-written:2", 2.0),
        ("metrics:published", 2.0),
    ],
)
def test_killed_write_leaves_the_old_checkpoint_or_the_new_one(tmp_path: Path, fault: str, expected: float) -> None:
    run = a_run(tmp_path)
    run.save(LAST, tensors(1.0), META)
    program = (
        "import sys, torch; from pathlib import Path\n"
        "from mesm.pipeline.run.directory import RunDirectory\n"
        "run = RunDirectory(Path(sys.argv[1]))\n"
        "run.save('last', {'model.a': torch.full((2, 3), 2.0)}, {})\n"
        "run.set_metrics([{'epoch': 0}])\n"
        "run.save('last', {'model.a': torch.full((2, 3), 3.0)}, {})\n"
    )
    environment = {**os.environ, FAULT_VARIABLE: fault}
    assert subprocess.run([sys.executable, "-c", program, str(run.path)], env=environment, check=False).returncode == -9
    checkpoint = run.load(LAST)
    assert checkpoint is not None
    assert (checkpoint.part("model")["a"] == expected).all()
    run.save(LAST, tensors(4.0), META)
    run.create()
    assert {path.name for path in run.path.iterdir()} <= {"checkpoint-last.safetensors", "metrics.jsonl"}


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    run = a_run(tmp_path)
    run.save(BEST, tensors(), META)
    path = run.checkpoint_path(BEST)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PipelineError, match=r"checkpoint-best\.safetensors is not a checkpoint.*or is damaged"):
        load_checkpoint(run.path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(PipelineError, match="not a checkpoint of this program"):
        load_checkpoint(tmp_path / "plain.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "new.safetensors", {"mesm-checkpoint": '{"format": 99}'})
    with pytest.raises(PipelineError, match="format 99; this version reads 1"):
        load_checkpoint(tmp_path / "new.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "list.safetensors", {"mesm-checkpoint": "[]"})
    with pytest.raises(PipelineError, match="not a checkpoint of this program"):
        load_checkpoint(tmp_path / "list.safetensors")
    with pytest.raises(PipelineError, match=r"there is no checkpoint .*train first"):
        load_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(PipelineError, match=r"there is no checkpoint .*checkpoint-best"):
        load_checkpoint(tmp_path)


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureError, match=r"/file: File exists"):
        RunDirectory(tmp_path / "file").create()
    with pytest.raises(FeatureError, match=r"file/checkpoint-best\.safetensors: Not a directory|File exists"):
        RunDirectory(tmp_path / "file").save(BEST, tensors(), {})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_said_and_the_old_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path)
    run.save(BEST, tensors(), META)
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: real(Path("/dev/full"), "wb", buffering=0))
    with pytest.raises(FeatureError, match=r"the disk is full \(No space left on device\); free some space"):
        run.save(BEST, tensors(2.0), META)
    monkeypatch.undo()
    checkpoint = run.load(BEST)
    assert checkpoint is not None
    assert torch.equal(checkpoint.tensors["model.a"], tensors()["model.a"])


def test_metrics_come_back_and_a_broken_last_line_is_left_out(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert run.metrics() == []
    run.set_metrics([{"epoch": 0}, {"epoch": 1, "loss": float("nan")}])
    with run.metrics_path.open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert [row["epoch"] for row in run.metrics()] == [0, 1]


def test_optimiser_goes_on_from_its_stored_moments(tmp_path: Path) -> None:
    def start() -> tuple[torch.nn.Linear, torch.optim.Optimizer, list[str]]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        names = [name for name, _ in model.named_parameters()]
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True), names

    def steps(model: torch.nn.Linear, optimiser: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimiser.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimiser.step()

    model, optimiser, names = start()
    steps(model, optimiser, 3)
    run = a_run(tmp_path)
    run.save(LAST, optimiser_tensors(optimiser, names), {})
    other, resumed, _ = start()
    other.load_state_dict(model.state_dict())
    checkpoint = run.load(LAST)
    assert checkpoint is not None
    restore_optimiser(resumed, names, checkpoint.part("optimiser"))
    steps(model, optimiser, 3)
    steps(other, resumed, 3)
    assert torch.equal(model.weight, other.weight)
