"""The benchmarks run, compare equal losses, and print the figures that others read."""

from __future__ import annotations

import argparse
import json
import os

import pytest
import torch
from torch._dynamo.utils import counters

from mesm.tools import bench
from mesm.tools.benchmarks import beside, steps, timing

KEYS = {
    "setting",
    "ms_per_step",
    "reference_ms_per_step",
    "speedup",
    "useful_gflops",
    "peak_gflops",
    "peak_fraction",
    "peak_memory_mb",
}


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, float]]:
    assert bench.main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_scoring_a_whole_split_takes_less_than_half_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows(capsys, "evaluate", "--repeats", "3")
    assert row["queries"] == 1550
    assert row["windows"] == 10
    assert 0 < row["ms"] < 500


@pytest.mark.slow
@pytest.mark.parametrize("what", ["train-step", "infer"])
def test_both_forms_are_timed_and_agree(capsys: pytest.CaptureFixture[str], what: str) -> None:
    (row,) = rows(capsys, what, "--setting", "charades-clip-slowfast", "--repeats", "2", "--inner", "1")
    assert set(row) >= KEYS
    assert row["loss_difference"] < 1e-5
    assert row["speedup"] > 1
    assert 0 < row["peak_fraction"] < 1
    assert row["useful_gflop"] < row["reference_gflop"]


@pytest.mark.slow
def test_an_epoch_is_timed_with_its_share_of_batch_cutting(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows(capsys, "epoch", "--setting", "tacos-c3d-glove", "--videos", "8")
    assert row["steps"] >= 2
    assert 0 < row["batch_fraction"] < 0.05


@pytest.mark.slow
def test_queries_about_an_encoded_video_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = rows(capsys, "ground", "--repeats", "2")
    assert 0 < row["minute_ms_per_query"] < row["two_hours_ms_per_query"]


@pytest.mark.slow
def test_steps_are_timed_alone_and_beside_a_busy_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "SETTLE_S", 0.0)
    (row,) = rows(capsys, "beside", "--setting", "demo", "--repeats", "1", "--inner", "1")
    assert all(row[f"{way}_{place}_ms"] > 0 for way in ("spinning", "quiet") for place in ("alone", "beside"))
    assert row["gain_beside"] == pytest.approx(row["spinning_beside_ms"] / row["quiet_beside_ms"], rel=0.01)


def test_a_process_that_spins_inherits_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with beside.without_choices():
        assert "OMP_WAIT_POLICY" not in os.environ
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


class Questions:
    """The other end of a server's pipe: asks for one step and keeps what comes back."""

    def __init__(self) -> None:
        self.asked, self.said = iter(["step", None]), list[object]()

    def recv(self) -> str | None:
        return next(self.asked)

    def send(self, what: object) -> None:
        self.said.append(what)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_timed_is_compiled_where_that_is_asked_for(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend="eager", **options))
    torch._dynamo.reset()
    counters.clear()
    options = argparse.Namespace(device="cpu", precision="fp32", compile=compiled)
    questions = Questions()
    steps.serve(questions, "infer", "charades-clip-slowfast", options, plain=False)  # type: ignore[arg-type]
    assert counters["stats"]["unique_graphs"] == (1 if compiled else 0)
    facts, milliseconds = questions.said
    assert isinstance(facts, dict)
    assert facts["flops"] > 1e9
    assert isinstance(milliseconds, float)


def test_spread_is_half_the_distance_of_the_quartiles() -> None:
    assert timing.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(0.5)
