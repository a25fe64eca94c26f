"""Logs: the figures of every epoch are in metrics.jsonl and, where TensorBoard is asked for, in its event files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_training import make_corpus, train_tiny

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.train.loggers import TENSORBOARD_FOLDER, TensorBoardLog, flat

TENSORBOARD = ("train.log=tensorboard",)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), videos=4, test_videos=1)


def events_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read what TensorBoard would show: (epoch, value) by name."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_rows_become_numbers_by_name() -> None:
    row: dict[str, Any] = {"epoch": 1, "note": "x", "done": True, "loss": {"span": 0.5, "of": {"all": 2}}, "none": None}
    assert dict(flat(row)) == {"epoch": 1.0, "loss/span": 0.5, "loss/of/all": 2.0}


def test_every_figure_of_every_epoch_is_in_the_event_files(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = train_tiny(corpus, tmp_path / "run", *TENSORBOARD, "train.epochs=2")
    expected: dict[str, list[tuple[int, Any]]] = {}
    for row in run.metrics():
        for name, value in flat(row):
            expected.setdefault(name, []).append((row["epoch"], pytest.approx(value, rel=1e-6)))
    assert {"loss/total", "validation/MR-full-mAP", "learning_rate"} <= set(expected)
    assert events_of(run.path / TENSORBOARD_FOLDER) == expected


def test_what_is_logged_again_replaces_what_a_killed_run_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for first, values in ((0, (1.0, 2.0, 3.0)), (1, (20.0, 30.0))):
        log = TensorBoardLog(tmp_path, first)
        for place, value in enumerate(values):
            log.log({"loss": {"total": value}}, first + place)
        log.close()
    assert events_of(tmp_path) == {"loss/total": [(0, 1.0), (1, 20.0), (2, 30.0)]}


def test_without_the_package_it_is_named_with_how_to_get_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        PipelineError, match=r"needs the package tensorboard .*pip install 'mesm-pipeline\[tensorboard\]'"
    ):
        train_tiny(corpus, tmp_path / "run", *TENSORBOARD, "train.epochs=1")
