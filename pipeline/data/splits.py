"""The queries that are trained on, and those that choose the best epoch."""

from __future__ import annotations

from pathlib import Path

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.annotations.registry import AVAILABLE_SPLITS, read_annotations
from mesm.datasets.errors import AnnotationError
from mesm.datasets.grouping import split_by_video
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config, DatasetConfig
from mesm.pipeline.run.console import say


def load_split(config: Config, annotations: Path, split: str) -> list[Annotation]:
    """Read the annotations of a split."""
    return read_annotations(config.dataset.reader, annotations, split)


def training_splits(
    config: Config, annotations: Path, select_on: str = ""
) -> tuple[list[Annotation], list[Annotation], str]:
    """Return training and validation queries and what the latter are, for the log."""
    dataset = config.dataset
    train = load_split(config, annotations, dataset.train_split)
    chosen = select_on or dataset.validation_split
    if chosen:
        return _share_of(train, dataset), load_split(config, annotations, chosen), chosen
    if len({annotation.video_id for annotation in train}) < 2:
        raise PipelineError(
            f"the {dataset.train_split} split has a single video, so none can be held back to choose the best epoch; "
            "name a split for that by dataset.validation_split"
        )
    kept, held = split_by_video(train, dataset.validation_fraction, seed=dataset.validation_seed, by=dataset.group_by)
    name = f"{dataset.validation_fraction:.0%} of the {dataset.train_split} videos (seed {dataset.validation_seed})"
    return _share_of(kept, dataset), held, name


def _share_of(train: list[Annotation], dataset: DatasetConfig) -> list[Annotation]:
    """Take `train_share` of the videos, with all their queries."""
    if dataset.train_share == 1:
        return train
    return split_by_video(train, dataset.train_share, seed=dataset.validation_seed, by=dataset.group_by)[1]


def read_all_splits(config: Config, annotations: Path) -> list[Annotation]:
    """Read the queries of every split that the configuration uses and that is there."""
    dataset = config.dataset
    splits = dict.fromkeys([dataset.train_split, dataset.validation_split, *dataset.test_splits])
    known = AVAILABLE_SPLITS.get(dataset.reader, ())
    found: list[Annotation] = []
    problems = []
    for split in splits:
        if not split or (known and split not in known):
            continue
        try:
            found += read_annotations(dataset.reader, annotations, split)
        except AnnotationError as error:
            problems.append(str(error))
    if not found:
        raise AnnotationError("\n".join(problems) or f"{annotations} holds no split of {dataset.reader}")
    for problem in problems:
        say(f"note: {problem}")
    return found
