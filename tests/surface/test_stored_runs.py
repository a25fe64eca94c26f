"""Runs that the code trained before its restructuring: they load, go on, and answer what they answered then."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from calls import evaluate, train
from figures import assert_figures, golden
from safetensors import safe_open
from stored import RUNS, VARIANTS, go_on, predictions, rows

EXPECTED = golden("runs.json")
CHECKPOINTS = ("checkpoint-last.safetensors", "checkpoint-best.safetensors")
FIGURE = 0.02
"""Figures of the table are rounded to two decimals, times to four: other bits may round them otherwise."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(RUNS) as archive:
        archive.extractall(folder, filter="data")
    return folder


def shapes(checkpoint: Path) -> dict[str, list[int]]:
    with safe_open(checkpoint, framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def assert_row(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """One line of metrics.jsonl is what it was."""
    assert_figures(row.pop("validation"), expected.pop("validation"), FIGURE)
    assert_figures(row, expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_stored_run_is_evaluated_as_it_was(stored: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(stored / name, tmp_path / "run")
    assert_figures(evaluate(stored / "corpus", run, "--controls"), EXPECTED[name]["evaluation"], FIGURE)
    assert_figures(predictions(run), EXPECTED[name]["predictions"], FIGURE)


@pytest.mark.parametrize("name", VARIANTS)
def test_stored_run_goes_on(stored: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(stored / name, tmp_path / "run")
    go_on(stored / "corpus", run)
    *before, last = rows(run)
    assert before == rows(stored / name)
    assert_row(last, dict(EXPECTED[name]["next epoch"]))


@pytest.mark.parametrize("name", VARIANTS)
def test_stored_run_is_trained_again(stored: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    train(stored / name / "config.yaml", stored / "corpus", run)
    for row, expected in zip(rows(run), rows(stored / name), strict=True):
        assert_row(row, expected)
    for file in CHECKPOINTS:
        assert shapes(run / file) == shapes(stored / name / file)
