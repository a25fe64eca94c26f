"""From the annotations and features of a setting of the paper to its table row beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.errors import DatasetError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import Config, VideoFeatureConfig
from mesm.pipeline.config.sections import nearest
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.frames import check_durations
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import texts_of
from mesm.pipeline.evaluate.batch_means import batch_means
from mesm.pipeline.evaluate.predict import protocol_of
from mesm.pipeline.evaluate.predictions import load_predictions
from mesm.pipeline.evaluate.stage import Evaluation, evaluate
from mesm.pipeline.experiments.paper import RELEASED, published_settings
from mesm.pipeline.report.table import MetricsTable
from mesm.pipeline.run.console import say
from mesm.pipeline.train.recipe import seed_directory, train_seeds
from mesm.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Check:
    """Something that a reproduction needs."""

    name: str
    found: str
    """What is there; empty: nothing that can be used."""
    advice: str = ""
    """What is wrong, and how to get it."""


def setting_config(setting: str, published: bool, overrides: Sequence[str]) -> Config:
    """Return the configuration of a setting of the paper; PipelineError for another name."""
    known = published_settings()
    if setting not in known:
        raise PipelineError(
            f"the papers' tables have no setting {setting!r}{nearest(setting, known)}; "
            f"expected one of {', '.join(known)}"
        )
    fixed = [f"train.epochs={known[setting].epochs}", f"evaluate.published={str(published).lower()}"]
    return load_config(setting, [*fixed, *overrides])


def check(workspace: Workspace) -> list[Check]:
    """Look for everything that training and evaluation read."""
    rows, queries = [], []
    config, features, annotations = workspace.config, workspace.features, workspace.require_annotations()
    dataset = config.dataset
    for split in dict.fromkeys((dataset.train_split, dataset.validation_split, *dataset.test_splits)):
        if not split:
            continue
        try:
            read = read_annotations(dataset.reader, annotations, split)
        except DatasetError as error:
            rows.append(Check(f"annotations, {split}", "", str(error)))
        else:
            queries += read
            videos = len({annotation.video_id for annotation in read})
            rows.append(Check(f"annotations, {split}", f"{len(read)} queries of {videos} videos"))
    rows += [_check_stream(stream, queries, features) for stream in config.features.video]
    rows.append(_check_text(config, queries, features))
    return rows


def _check_stream(stream: VideoFeatureConfig, queries: list[Annotation], features: Path) -> Check:
    name = f"features, {stream.encoder}"
    released = RELEASED[stream.encoder]
    advice = (
        f"import the released file: mesm-pipeline import-features {released} --name {stream.encoder} "
        f"--clip-len {stream.clip_len:g} --features {features}; or make them: mesm-pipeline extract --videos VIDEOS "
        f"--config CONFIG --features {features}"
    )
    try:
        (folder,) = open_streams([stream], features)
        missing = sorted({query.video_id for query in queries} - set(folder.keys()))
        if missing:
            shown = ", ".join(missing[:5])
            return Check(name, "", f"{folder.path} lacks {len(missing)} videos, among them {shown}; {advice}")
        warning = check_durations([folder], queries)
    except (DatasetError, PipelineError) as error:
        return Check(name, "", f"{error}; {advice}")
    kind = "imported" if folder.spec.get("imported") else "extracted"
    return Check(name, f"{len(folder)} videos, {kind}, fingerprint {folder.fingerprint[:12]}", warning or "")


def _check_text(config: Config, queries: list[Annotation], features: Path) -> Check:
    encoder = config.features.text.encoder
    name, kind = f"text, {encoder}", text_kind(encoder)
    try:
        text = kind.from_folder(features, config)
        for query in () if kind.is_table else texts_of(queries):
            text.source.words(query)
    except (DatasetError, PipelineError, OSError) as error:
        return Check(name, "", f"{error}; {kind.advice}")
    found = "word vectors" if kind.is_table else f"{len(texts_of(queries))} texts"
    return Check(name, f"{found}, fingerprint {text.fingerprint[:12]}")


def describe(rows: Sequence[Check]) -> str:
    """Return a line a check, and one of advice where something is missing."""
    lines = []
    for row in rows:
        lines.append(f"{'ok     ' if row.found else 'MISSING'} {row.name}: {row.found or row.advice}")
        if row.found and row.advice:
            lines.append(f"        note: {row.advice}")
    return "\n".join(lines)


def reproduce(
    setting: str, workspace: Workspace, out: Path, seeds: Sequence[int], select_on: str
) -> dict[str, MetricsTable]:
    """Check, train every seed, evaluate, and set the paper's row beside ours, split by split.

    Raises PipelineError that lists what is missing.
    """
    rows = check(workspace)
    say(describe(rows))
    missing = [row.name for row in rows if not row.found]
    if missing:
        raise PipelineError(f"{setting} cannot be trained: {', '.join(missing)} missing, see above")
    train_seeds(workspace, out, seeds, select_on)
    figures: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        run = seed_directory(out, seed)
        place = (workspace.annotations, workspace.features)
        for result in evaluate(run, *place, [], workspace.device, workspace.config.evaluate.published):
            figures.setdefault(result.split, []).append(_figures(setting, workspace, result))
    return {split: compare(setting, split, found) for split, found in figures.items()}


def _figures(setting: str, workspace: Workspace, result: Evaluation) -> dict[str, float]:
    """Return a run's figures; as published also in the way they were averaged there."""
    figures, config = _brief(next(iter(result.scores.values())).brief()), workspace.config
    size = published_settings()[setting].batch_mean
    if not size or not config.evaluate.published:
        return figures
    say(f"{result.split}: Rank@n and mIoU are means over batches of {size} queries, as published")
    queries = read_annotations(config.dataset.reader, workspace.require_annotations(), result.split)
    return figures | batch_means(load_predictions(result.predictions), queries, protocol_of(config), size)


def _brief(record: dict[str, float | None]) -> dict[str, float]:
    names = {"MR-full-miou": "mIoU", "MR-full-mAP": "mAP avg"}
    named = {names.get(key, key.removeprefix("MR-full-")): value for key, value in record.items()}
    return {name: value for name, value in named.items() if value is not None}


def compare(setting: str, split: str, runs: Sequence[dict[str, float]]) -> MetricsTable:
    """Set the paper's row beside the mean of ours, and the difference; without a row of the paper, ours alone."""
    paper = published_settings()[setting].rows.get(split, {})
    columns = tuple(paper) or tuple(runs[0])

    def row(merge: Callable[[list[float]], float]) -> tuple[float, ...]:
        return tuple(merge([run[column] for run in runs]) for column in columns)

    mean = row(statistics.mean)
    table: list[tuple[str, tuple[float | None, ...]]] = []
    if paper:
        table.append(("paper", tuple(paper[column] for column in columns)))
    table.append((f"ours, mean of {len(runs)}" if len(runs) > 1 else "ours", mean))
    if len(runs) > 1:
        table.append(("deviation", row(statistics.stdev)))
    if paper:
        table.append(("ours - paper", tuple(a - paper[column] for a, column in zip(mean, columns, strict=True))))
    return MetricsTable(columns, tuple(table))
