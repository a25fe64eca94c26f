"""What a comparison says of one trained run: its figures, its controls, its size and its speed.

What was measured lies beside the run, with what it was measured of; it is not measured again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.plain_text import read_json
from mesm.model.registry import find_network
from mesm.pipeline import __version__
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.evaluate.controls import control_scores
from mesm.pipeline.evaluate.grounding_gap import EXCHANGES
from mesm.pipeline.evaluate.metrics import evaluate_predictions
from mesm.pipeline.evaluate.predict import answer, predict, protocol_of
from mesm.pipeline.evaluate.predictions import save_predictions
from mesm.pipeline.evaluate.trained import TrainedModel, load_evaluation_data, load_trained, without_training
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.console import say
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.workspace import Workspace

ANSWERS, WARM_UP = 100, 10
"""Answers that are timed, one query each, and those before them that are not."""

Brief = dict[str, float | None]
"""Headline figures by their published names, see `Scores.brief`."""


@dataclass(frozen=True)
class Measurement:
    """What one run does on one split."""

    figures: Brief
    without_video: Brief
    """The same when every frame is zero."""
    other_video: list[Brief]
    """The same when each video is exchanged for another one of the split, once an exchange; empty for a lone video."""
    other_sentence: Brief | None
    """The same when each query is another one about its video, see `controls.Controls`."""
    gap: dict[str, tuple[float, float | None]]
    """What the figures lose by the exchanges, and its standard error; empty for a lone video."""
    parameters: int
    answer_ms: float
    """Median milliseconds from the batch of a single query to its answers."""


def measure(run: RunDirectory, workspace: Workspace, split: str, queries: Sequence[Annotation]) -> Measurement:
    """Measure a run's best checkpoint on the queries of a split, unless that was done.

    A network that has nothing to learn is built from the workspace's configuration.
    """
    file = run.path / f"measured-{split}.json"
    subject = _subject(run, workspace, queries)
    if (found := _read(file, subject)) is not None:
        return found
    say(f"evaluating {run.path} on {split}: {len(queries)} queries, {EXCHANGES} exchanges of videos")
    trained = _model(run, workspace)
    data = load_evaluation_data(trained, queries, workspace.features)
    predictions = predict(trained.network, data, trained.config)
    save_predictions(run.path / f"predictions-{split}.jsonl", predictions)
    controls = control_scores(trained, data, predictions)
    gaps = {} if controls.gap is None else controls.gap.gaps
    result = Measurement(
        figures=evaluate_predictions(predictions, queries, protocol_of(trained.config)).brief(),
        without_video=controls.without_video.brief(),
        other_video=[scores.brief() for scores in controls.other_video],
        other_sentence=None if controls.other_sentence is None else controls.other_sentence.brief(),
        gap={name: (gap.value, gap.error) for name, gap in gaps.items()},
        parameters=sum(parameter.numel() for parameter in trained.network.parameters()),
        answer_ms=answer_milliseconds(trained, data),
    )
    run.write_json(file.name, {"of": subject, "measured": dataclasses.asdict(result)})
    return result


@torch.inference_mode()
def answer_milliseconds(trained: TrainedModel, data: MomentData) -> float:
    """Time single queries, spread over the split, from a batch on the device to answers; return the median."""
    indices = np.linspace(0, len(data) - 1, ANSWERS).round().astype(int).tolist()
    warm_up, times = indices[:WARM_UP], []
    for index in warm_up + indices:
        batch = data.batch([index], [0])
        _wait_for(trained.device)
        started = time.perf_counter()
        answer(trained.network, batch, trained.config)
        _wait_for(trained.device)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[len(warm_up) :])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _model(run: RunDirectory, workspace: Workspace) -> TrainedModel:
    if find_network(workspace.config.model.name).learns:
        return load_trained(run.path, workspace.device)
    return without_training(workspace.config, run.path, workspace.device)


def _subject(run: RunDirectory, workspace: Workspace, queries: Sequence[Annotation]) -> dict[str, Any]:
    """Return everything that a measurement depends on."""
    learnt = workspace.config.to_yaml().encode()
    if find_network(workspace.config.model.name).learns:
        learnt = run.checkpoint_path(BEST).read_bytes()
    return {
        "checkpoint": hashlib.sha256(learnt).hexdigest(),
        "queries": hashlib.sha256(repr(list(queries)).encode()).hexdigest(),
        "exchanges": EXCHANGES,
        "answers": ANSWERS,
        "device": str(workspace.device),
        "version": __version__,
    }


def _read(file: Path, subject: Mapping[str, Any]) -> Measurement | None:
    """Return what was measured, if it was of this subject."""
    if not file.exists():
        return None
    try:
        content = read_json(file)
        return Measurement(**content["measured"]) if content["of"] == subject else None
    except (ValueError, LookupError, TypeError) as error:
        say(f"note: {file} is damaged ({error}) and is measured again")
        return None
