"""Evaluate a run on splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesm.datasets.annotations.registry import Annotation
from mesm.pipeline.evaluate.controls import baseline_scores, control_scores, training_durations
from mesm.pipeline.evaluate.metrics import Scores, evaluate_predictions
from mesm.pipeline.evaluate.predict import predict, protocol_of
from mesm.pipeline.evaluate.predictions import save_predictions
from mesm.pipeline.evaluate.trained import TrainedModel, load_evaluation_data
from mesm.pipeline.run.console import say


@dataclass(frozen=True)
class Evaluation:
    """Figures of one split, with the baselines fitted on the training split."""

    split: str
    scores: dict[str, Scores]
    predictions: Path


def evaluate_run(
    trained: TrainedModel,
    annotations: Mapping[str, Sequence[Annotation]],
    train: Sequence[Annotation],
    features: Path,
    controls: bool = False,
) -> list[Evaluation]:
    """Evaluate a run on splits (name -> queries), write its predictions, and score the baselines beside it.

    controls: also score its answers when it sees nothing, and when it sees another video: what is left then was guessed
    from the sentence and from where moments usually lie.
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
        if controls:
            scores |= control_scores(trained, data)
        fitted = [a for a in train if a.video_id in durations]
        scores |= baseline_scores(fitted, queries, trained.config, durations)
        say(f"{split}: {len(queries)} queries; predictions in {file}")
        results.append(Evaluation(split, scores, file))
    return results
