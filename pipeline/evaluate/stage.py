"""Stage three: figures of a run on the splits of its dataset, or of anybody's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mesm.datasets.annotations.records import Annotation, read_text
from mesm.datasets.annotations.registry import AVAILABLE_SPLITS, READERS, read_annotations
from mesm.datasets.errors import AnnotationError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config, DatasetConfig
from mesm.pipeline.data.splits import training_splits
from mesm.pipeline.evaluate.calibration import calibrate as calibrate_on
from mesm.pipeline.evaluate.calibration import read_calibration
from mesm.pipeline.evaluate.controls import baseline_scores, control_scores, training_durations
from mesm.pipeline.evaluate.grounding_gap import EXCHANGES, GroundingGap
from mesm.pipeline.evaluate.metrics import Scores, evaluate_predictions
from mesm.pipeline.evaluate.predict import predict, protocol_of
from mesm.pipeline.evaluate.predictions import load_predictions, save_predictions
from mesm.pipeline.evaluate.reliability import Calibration, Reliability, measure
from mesm.pipeline.evaluate.tables import calibration_table, metrics_table, reliability_charts
from mesm.pipeline.evaluate.trained import TrainedModel, load_evaluation_data, load_trained
from mesm.pipeline.report.run import write_run_report
from mesm.pipeline.run.console import say
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.workspace import Workspace

HELD_BACK = "validation"
"""Stands for the queries that were held back from training to choose the best epoch."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one split, with the baselines fitted on the training split."""

    split: str
    scores: dict[str, Scores]
    predictions: Path
    reliability: Reliability | None = None
    """How far scores are from the share of right answers, where the run was calibrated."""
    gap: GroundingGap | None = None
    """What the run's own figures lose with other videos, where the controls were asked for."""

    def as_record(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, by name; reliability and gap stand with the run's own scores."""
        record = {name: scores.as_record() for name, scores in self.scores.items()}
        if self.reliability is not None:
            next(iter(record.values()))["calibration"] = self.reliability.as_record()
        if self.gap is not None:
            next(iter(record.values()))["grounding_gap"] = self.gap.as_record()
        return record


def evaluate(
    run: Path,
    annotations: Path | None,
    features: Path,
    splits: Sequence[str],
    device: torch.device,
    published: bool,
    controls: bool = False,
    calibrate: bool = False,
) -> list[Evaluation]:
    """Evaluate a run directory; without `splits`, on the test splits of its configuration.

    calibrate: first measure what its scores mean on the queries that were held back from its training.
    """
    trained = load_trained(run, device)
    return evaluate_model(trained, annotations, features, splits, published, controls, calibrate)


def evaluate_model(
    trained: TrainedModel,
    annotations: Path | None,
    features: Path,
    splits: Sequence[str],
    published: bool,
    controls: bool = False,
    calibrate: bool = False,
) -> list[Evaluation]:
    """Evaluate a network that is loaded; figures, predictions and a page go to its folder."""
    config = trained.config
    if published:
        config = replace(config, evaluate=replace(config.evaluate, published=True))
        trained = replace(trained, config=config)
    place = Workspace(config, annotations, features, trained.device).require_annotations()
    queries, train = read_splits(config, place, list(splits) or list(config.dataset.test_splits))
    if calibrate:
        calibrate_run(trained, place, features)
    results = evaluate_run(trained, queries, train, features, controls)
    folder = trained.folder
    RunDirectory(folder).write_json("evaluation.json", {r.split: r.as_record() for r in results})
    protocol = next(iter(results[0].scores.values())).protocol
    if RunDirectory(folder).metrics() or not trained.checkpoint.tensors:
        tables = {r.split: metrics_table(r.scores, r.gap) for r in results}
        measured = {r.split: r.reliability for r in results if r.reliability is not None}
        charts = [chart for split, one in measured.items() for chart in reliability_charts(split, one)]
        if measured:
            tables["Expected calibration error"] = calibration_table(measured)
        write_run_report(folder, tables, [f"Protocol: {protocol}.", *gap_notes(results)], charts)
    return results


def calibrate_run(trained: TrainedModel, place: Path, features: Path) -> Calibration:
    """Measure a run's scores on the queries that chose its best epoch, and keep the result in its folder.

    PipelineError when these are too few; FeatureError when their features are not there.
    """
    config = trained.config
    chosen = str(trained.checkpoint.meta.get("validation", ""))
    # A split that was named for this in training; otherwise the name describes what was held back.
    select_on = chosen if chosen in AVAILABLE_SPLITS[config.dataset.reader] else ""
    _, queries, split = training_splits(config, place, select_on)
    found = calibrate_on(trained, load_evaluation_data(trained, queries, features), split)
    say(f"scores calibrated on {found.queries} queries, {split}")
    return found


def read_splits(
    config: Config, place: Path, splits: Sequence[str]
) -> tuple[dict[str, list[Annotation]], list[Annotation]]:
    """Return the queries of each split, and those of the training split that baselines may be fitted on."""
    train, queries = _training_queries(config, place), {}
    for split in splits:
        if split == HELD_BACK and HELD_BACK not in AVAILABLE_SPLITS[config.dataset.reader]:
            train, queries[split], _ = training_splits(config, place)
        else:
            queries[split] = read_annotations(config.dataset.reader, place, split)
    return queries, train


def evaluate_run(
    trained: TrainedModel,
    annotations: Mapping[str, Sequence[Annotation]],
    train: Sequence[Annotation],
    features: Path,
    controls: bool = False,
) -> list[Evaluation]:
    """Evaluate a run on splits (name -> queries), write its predictions, and score the baselines beside it.

    controls: also score its answers when it sees nothing, when it sees another video, and when it is asked another
    sentence: what is left then was guessed from the sentence and from where moments usually lie.
    """
    results = []
    for split, queries in annotations.items():
        data = load_evaluation_data(trained, queries, features)
        predictions = predict(trained.network, data, trained.config)
        file = trained.folder / f"predictions-{split}.jsonl"
        save_predictions(file, predictions)
        durations = training_durations(train, trained.config, features)
        durations |= {a.video_id: data.duration(i) for i, a in enumerate(data.annotations)}
        scores = {trained.config.name: evaluate_predictions(predictions, queries, protocol_of(trained.config))}
        gap = None
        if controls:
            found = control_scores(trained, data, predictions)
            scores, gap = scores | found.rows(), found.gap
        fitted = [a for a in train if a.video_id in durations]
        scores |= baseline_scores(fitted, queries, trained.config, durations)
        say(f"{split}: {len(queries)} queries; predictions in {file}")
        calibration = read_calibration(trained)
        reliability = None if calibration is None else measure(calibration, predictions, queries)
        results.append(Evaluation(split, scores, file, reliability, gap))
    return results


def gap_notes(results: Sequence[Evaluation]) -> list[str]:
    """Say what the columns of the gap are, if there are any."""
    if all(result.gap is None for result in results):
        return []
    return [
        f"Gap: the figure minus its mean over {EXCHANGES} exchanges of videos, ± its standard error (bootstrap over "
        "videos); what a network gets from looking. Judge it beside the figure itself: answers that are nonsense for a "
        "wrong video have a large gap."
    ]


def _training_queries(config: Config, place: Path) -> list[Annotation]:
    try:
        return read_annotations(config.dataset.reader, place, config.dataset.train_split)
    except AnnotationError as error:
        say(f"note: no baselines, as the training split cannot be read: {error}")
        return []


def score_file(predictions: Path, annotations: Path | None, reader: str, splits: Sequence[str]) -> list[Evaluation]:
    """Score a file of predictions in the QVHighlights format against annotations.

    Without a reader, a `.jsonl` file of QVHighlights or of this project's own format is recognised by its fields.
    """
    if annotations is None:
        raise PipelineError("--predictions needs --annotations, the file or folder with the truth")
    if not annotations.exists():
        raise PipelineError(f"there is no {annotations}; give the file or folder of the truth by --annotations")
    name = reader or _recognise(annotations)
    split = splits[0] if splits else READERS[name].eval_splits[0] if name in READERS else ""
    queries = read_annotations(name, annotations, split)
    config = Config(dataset=DatasetConfig(reader=name))
    protocol = protocol_of(config)
    scores = {predictions.name: evaluate_predictions(load_predictions(predictions), queries, protocol)}
    if all(query.duration_s is not None for query in queries):
        scores |= {
            f"{name} (fitted here)" if name.startswith("fixed") else name: value
            for name, value in baseline_scores(queries, queries, config).items()
        }
    return [Evaluation(split, scores, predictions)]


def _recognise(annotations: Path) -> str:
    if annotations.is_file() and annotations.suffix == ".jsonl":
        first = next((line for line in read_text(annotations).split("\n") if line.strip()), "")
        return "qvhighlights" if '"qid"' in first else "jsonl"
    raise PipelineError(f"{annotations}: the format is not clear; say it by --reader, one of {', '.join(READERS)}")
