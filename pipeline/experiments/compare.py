"""Several networks on one setting: the same data, epochs, seeds and selection for each, and one table of them all.

OUT/NETWORK/seed-S      a run directory each, with what was measured of it
OUT/compare.json        the conditions, from the start, and the figures, at the end
OUT/compare.html        the tables
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.plain_text import read_json
from mesm.model.registry import find_network
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.frames import require_videos
from mesm.pipeline.data.splits import training_splits
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.evaluate.controls import baseline_scores, training_durations
from mesm.pipeline.evaluate.grounding_gap import EXCHANGES
from mesm.pipeline.evaluate.stage import HELD_BACK, read_splits
from mesm.pipeline.experiments.costs import TrainingCosts, epoch_seconds, train_apart
from mesm.pipeline.experiments.entrants import common_settings, own_settings
from mesm.pipeline.experiments.figures import NetworkFigures, notes_of, table_of
from mesm.pipeline.experiments.measure import Brief, measure
from mesm.pipeline.report.comparison import write_comparison_page
from mesm.pipeline.report.table import TextTable
from mesm.pipeline.run.checkpoint import BEST, LAST, Checkpoint, load_checkpoint
from mesm.pipeline.run.console import say
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.train.data import hash_of_queries
from mesm.pipeline.train.recipe import seed_directory
from mesm.pipeline.train.state import differences, refuse_other_run
from mesm.pipeline.workspace import Workspace

RECORD_FILE, PAGE_FILE = "compare.json", "compare.html"


@dataclass(frozen=True)
class CompareOptions:
    """What is compared."""

    configs: Mapping[str, Config]
    """Of each network, by its name; see `entrants.configurations`."""
    seeds: Sequence[int]
    splits: Sequence[str] = ()
    """To score on, without any the configuration's test splits; `validation`: what training held back."""
    select_on: str = ""
    """The split that chooses the best epochs; empty: as the configuration says."""


@dataclass(frozen=True)
class Comparison:
    """What was found."""

    tables: dict[str, TextTable]
    """By split."""
    notes: list[str]
    """What a reader must know."""
    record: dict[str, Any]
    """The content of compare.json."""


@dataclass(frozen=True)
class Material:
    """What all networks learn from and are scored on."""

    splits: dict[str, list[Annotation]]
    """The queries to score, by split."""
    fitted_on: list[Annotation]
    """The queries that a fixed window is fitted on."""
    validation: list[Annotation]
    """The queries that choose the best epoch."""
    validation_name: str
    queries_hash: str
    """Of those that are trained and validated on."""
    fingerprints: dict[str, str]
    """Of the features, by encoder."""


def compare(workspace: Workspace, options: CompareOptions, out: Path) -> Comparison:
    """Train and measure every network with every seed, and write compare.json and compare.html below `out`.

    workspace: its configuration may be that of any of the networks. What is done already is not done again. Raises
    PipelineError when `out` holds a comparison under other conditions, or a run that was not treated like the others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PipelineError("compare starts a process for each training by itself; run it without torchrun")
    material = read_material(workspace, options)
    record = begin_record(workspace, options, material, out)
    networks: dict[str, dict[str, NetworkFigures]] = {split: {} for split in material.splits}
    for network, config in options.configs.items():
        runs = list(runs_of(network, config, workspace, options, material, out))
        seconds = [second for run in runs for second in epoch_seconds(run)]
        memory = [TrainingCosts.of(run).peak_memory_bytes for run in runs]
        for split, queries in material.splits.items():
            measured = [measure(run, replace(workspace, config=config), split, queries) for run in runs]
            networks[split][network] = NetworkFigures.of(measured, seconds, memory)
    return finish(workspace, options, material, record, networks, out)


def runs_of(
    network: str, config: Config, workspace: Workspace, options: CompareOptions, material: Material, out: Path
) -> Iterator[RunDirectory]:
    """Train a network with every seed; of one that has nothing to learn there is one run, which holds no checkpoint."""
    if not find_network(network).learns:
        say(f"--- {network}")
        yield RunDirectory(out / network)
        return
    for seed in options.seeds:
        say(f"--- {network}, seed {seed}")
        own = replace(config, train=replace(config.train, seed=seed))
        yield trained_run(replace(workspace, config=own), options, material, seed_directory(out / network, seed))


def read_material(workspace: Workspace, options: CompareOptions) -> Material:
    """Read all that the networks need, so that what is missing shows before anything is trained."""
    config, place = workspace.config, workspace.require_annotations()
    if options.select_on and HELD_BACK in options.splits:
        raise PipelineError(
            f"--split {HELD_BACK} cannot go with --select-on, as nothing is held back then; score on that split"
        )
    train, validation, name = training_splits(config, place, options.select_on)
    splits, fitted_on = read_splits(config, place, list(options.splits) or list(config.dataset.test_splits))
    for split in [split for split, queries in splits.items() if not any(query.moments for query in queries)]:
        if split in options.splits or len(splits) == 1:
            raise PipelineError(f"no query of the split {split} has a moment to score by; name another one by --split")
        say(f"note: no query of the split {split} has a moment to score by; it is left out")
        del splits[split]
    folders = open_streams(config.features.video, workspace.features)
    queries = [query for split in (train, validation, *splits.values()) for query in split]
    require_videos(folders, [query.video_id for query in queries])
    text = text_kind(config.features.text.encoder).from_folder(workspace.features, config)
    fingerprints = {folder.name: folder.fingerprint for folder in folders}
    fingerprints[config.features.text.encoder] = text.fingerprint
    return Material(splits, fitted_on, validation, name, hash_of_queries(train, validation), fingerprints)


def begin_record(workspace: Workspace, options: CompareOptions, material: Material, out: Path) -> dict[str, Any]:
    """Write the conditions of this comparison; PipelineError when the folder holds one under others.

    Networks and splits may be added or left out: nothing that was trained becomes unequal by that.
    """
    conditions = {
        **common_settings(workspace.config),
        "seeds": list(options.seeds),
        "selected_on": material.validation_name,
        "trained_queries": material.queries_hash,
        "fingerprints": material.fingerprints,
        "exchanges": EXCHANGES,
        "device": workspace.device.type,
        "versions": {name: version(name) for name in ("mesm-pipeline", "torch", "numpy")}
        | {"python": platform.python_version()},
    }
    record = {
        "conditions": conditions,
        "networks": {name: own_settings(config) for name, config in options.configs.items()},
    }
    file = out / RECORD_FILE
    if file.exists():
        _refuse_other_comparison(file, record)
    RunDirectory(out).write_json(RECORD_FILE, record)
    return record


def _refuse_other_comparison(file: Path, record: Mapping[str, Any]) -> None:
    try:
        earlier = read_json(file)
        found = list(differences(earlier["conditions"], record["conditions"]))
        for name, settings in record["networks"].items():
            found += differences(earlier["networks"].get(name, settings), settings, name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(f"{file} is not the record of a comparison ({error!r}); choose another --out") from error
    if found:
        raise PipelineError(
            f"{file.parent} holds a comparison under other conditions:\n  "
            + "\n  ".join(found)
            + "\nuse the same settings to go on with it, or choose another --out"
        )


def trained_run(workspace: Workspace, options: CompareOptions, material: Material, out: Path) -> RunDirectory:
    """Train one network with one seed, unless that was done; PipelineError for a run that is not like the others."""
    run, config = RunDirectory(out), workspace.config
    last = run.load(LAST)
    if last is not None:
        refuse_other_run(run, last.meta, config, material.fingerprints, material.queries_hash)
        _refuse_unequal_run(run, last, config)
    if last is None or last.meta["state"]["epoch"] < config.train.epochs:
        train_apart(workspace, out, options.select_on)
    else:
        say(f"{out} is trained already")
    for which in (LAST, BEST):
        _refuse_unequal_run(run, load_checkpoint(run.checkpoint_path(which)), config)
    found = [row["epoch"] for row in run.metrics()]
    if found != list(range(config.train.epochs)):
        raise PipelineError(
            f"{out}: expected the metrics of {config.train.epochs} epochs, found those of {len(found)}; "
            "remove the folder to train it again"
        )
    return run


def _refuse_unequal_run(run: RunDirectory, checkpoint: Checkpoint, config: Config) -> None:
    """Raise PipelineError unless a checkpoint is from a training for these epochs, by what is installed now."""
    epochs, versions = checkpoint.meta["config"]["train"]["epochs"], checkpoint.meta["versions"]
    now = {name: version(name) for name in versions}
    if (epochs, versions) != (config.train.epochs, now):
        raise PipelineError(
            f"{run.path} was trained for {epochs} epochs by {versions}, not for {config.train.epochs} by {now}; "
            "remove the folder to train it again, or choose another --out"
        )


def finish(
    workspace: Workspace,
    options: CompareOptions,
    material: Material,
    record: Mapping[str, Any],
    networks: Mapping[str, Mapping[str, NetworkFigures]],
    out: Path,
) -> Comparison:
    """Make the tables of what was found (split -> network -> figures), and write record and page."""
    notes = [*notes_of(options.seeds, workspace.device.type), *notes_on_training(options.configs, material)]
    tables, splits = {}, {}
    for split, figures in networks.items():
        name, brief = best_fixed_window(workspace, material, split)
        tables[split] = table_of(figures, name, brief)
        splits[split] = {
            "queries": len(material.splits[split]),
            "networks": {network: entry.as_record() for network, entry in figures.items()},
            "baseline": {name: brief},
        }
    content = {**record, "splits": splits, "notes": notes}
    facts = {
        "setting": workspace.config.name,
        "epochs": str(workspace.config.train.epochs),
        "seeds": ", ".join(map(str, options.seeds)),
        "device": workspace.device.type,
        **{f"queries, {split}": f"{len(queries):,}" for split, queries in material.splits.items()},
    }
    RunDirectory(out).write_json(RECORD_FILE, content)
    write_comparison_page(out / PAGE_FILE, facts, notes, tables, record["networks"])
    return Comparison(tables, notes, content)


def best_fixed_window(workspace: Workspace, material: Material, split: str) -> tuple[str, Brief]:
    """Return the name and the figures of the best window without a network, fitted on the training queries."""
    queries = material.splits[split]
    durations = training_durations([*material.fitted_on, *queries], workspace.config, workspace.features)
    name, scores = next(iter(baseline_scores(material.fitted_on, queries, workspace.config, durations).items()))
    return name, scores.brief()


def notes_on_training(configs: Mapping[str, Config], material: Material) -> Iterator[str]:
    """Say how the best epochs were chosen, and in what networks were trained differently."""
    without = ", ".join(network for network in configs if not find_network(network).learns)
    if without:
        yield f"Nothing is trained of {without}: one measurement, whatever the seeds."
    configs = {network: config for network, config in configs.items() if find_network(network).learns}
    if not configs:
        return
    train = next(iter(configs.values())).train
    yield f"Epochs: {train.epochs}, of which the best one by {train.select_by} on {material.validation_name} is scored."
    chosen_on = [split for split, queries in material.splits.items() if queries == material.validation]
    if chosen_on:
        yield f"The epochs were chosen on the very queries of {chosen_on[0]}: all figures on it are too good."
    own = {network: own_settings(config)["train"] for network, config in configs.items()}
    for key in next(iter(own.values())):
        values = {network: settings[key] for network, settings in own.items()}
        if len(set(values.values())) > 1:
            yield f"train.{key} is not equal: {', '.join(f'{value} ({name})' for name, value in values.items())}."
