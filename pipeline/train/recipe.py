"""Training: shards in, checkpoints and metrics out; the same command again goes on where the last one stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.publishing import held_alone, remove_stale_temporaries
from mesm.model.registry import find_network
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.texts import WORD_TABLE_FILE, VectorText
from mesm.pipeline.evaluate.calibration import LEAST_QUERIES, calibrate
from mesm.pipeline.evaluate.metrics import Scores
from mesm.pipeline.evaluate.predict import evaluate_split
from mesm.pipeline.evaluate.tables import metrics_table
from mesm.pipeline.evaluate.trained import load_trained
from mesm.pipeline.report.run import write_run_report
from mesm.pipeline.report.table import render_text
from mesm.pipeline.run.checkpoint import LAST, require_parts
from mesm.pipeline.run.console import ProgressBar, say, silence
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.distributed import World, join_world
from mesm.pipeline.run.memory import keep_freed_memory
from mesm.pipeline.run.package import CALIBRATION
from mesm.pipeline.train.data import TrainingData, build_for, load_training_data
from mesm.pipeline.train.loggers import open_logs
from mesm.pipeline.train.optimisation import learning_rate
from mesm.pipeline.train.state import Progress, TrainingState, refuse_other_run
from mesm.pipeline.train.step import StepFigures, Steps, add_to_progress
from mesm.pipeline.workspace import Workspace

READ_EVERY = 10
"""Steps whose figures are read together, so that the host need not wait for the device after each."""


def train(workspace: Workspace, out: Path, select_on: str = "") -> RunDirectory:
    """Train a configuration, or go on with it, and return its run directory.

    select_on: the split that chooses the best epoch. Under torchrun, every process calls this; the first one writes and
    prints. Raises PipelineError for a run of another kind in `out`, for a network that has nothing to learn, and when a
    loss is not finite; FeatureError while another process trains into `out`.
    """
    if not find_network(workspace.config.model.name).learns:
        raise PipelineError(
            f"the network {workspace.config.model.name} has nothing to learn; evaluate it right away: "
            f"mesm-pipeline evaluate --network {workspace.config.model.name} --config CONFIG"
        )
    world, device = join_world(workspace.device)
    if not world.leads:
        silence()
    keep_freed_memory()
    run = RunDirectory(out)
    with ExitStack() as stack:
        if world.leads:
            run.create()
            stack.enter_context(held_alone(out))
        world.wait()
        _train(replace(workspace, device=device), run, world, select_on)
    return run


def _train(workspace: Workspace, run: RunDirectory, world: World, select_on: str) -> None:
    """Train, or go on, in a run directory that nobody else writes to."""
    config, out = workspace.config, run.path
    data = load_training_data(workspace, select_on)
    state = TrainingState.start(config, build_for(config, data).to(workspace.device))
    steps = Steps(config, data.train, state, world)
    announce(config, data, steps)
    if (checkpoint := run.load(LAST)) is not None:
        require_parts(checkpoint, run.checkpoint_path(LAST), "state")
        refuse_other_run(run, checkpoint.meta, config, data.fingerprints, data.queries_hash)
        state.restore(checkpoint, run, config.train.epochs)
        progress = state.progress
        say(f"found a checkpoint after {progress.epoch} epochs and {progress.step} steps; going on from there")
    elif world.leads:
        keep_inputs(run, config, data)
    world.wait()
    if state.progress.epoch >= config.train.epochs:
        # The last checkpoint is written before the report.
        if world.leads and not run.report_path.exists() and run.metrics():
            write_run_report(out, notes=[note_on_selection(config, data)])
        say(f"{out} is complete: {config.train.epochs} epochs, best {best_so_far(state.progress, config)}")
        # It may have been killed just before the end.
        if world.leads and not (out / CALIBRATION).exists():
            calibrate_best(out, data, workspace.device)
        return
    with ExitStack() as stack:
        if world.leads:
            remove_stale_temporaries(out)
            logs = [stack.enter_context(closing(log)) for log in open_logs(config, run, state.progress.epoch)]
        while state.progress.epoch < config.train.epochs:
            seconds = train_epoch(steps, run, data)
            scores = validate(state, data, config, world) if is_validated(state.progress.epoch, config) else None
            row = figures_of_epoch(steps, seconds, scores)
            if is_best(state.progress, scores, config) and world.leads:
                state.save_best(run, config, data)
            for log in logs if world.leads else ():
                log.log(row, state.progress.epoch)
            state.progress = replace(state.progress, epoch=state.progress.epoch + 1, step=0, sums={})
            if world.leads:
                state.save_last(run, config, data)
            loss = ", ".join(f"{name} {value:.3f}" for name, value in row["loss"].items())
            say(f"epoch {row['epoch'] + 1}/{config.train.epochs}: {row['seconds']:.1f} s; {loss}")
    if world.leads:
        calibrate_best(out, data, workspace.device)
        write_run_report(out, notes=[note_on_selection(config, data)])
    say(f"done: best epoch {best_so_far(state.progress, config)} on {data.validation_name}")


def note_on_selection(config: Config, data: TrainingData) -> str:
    """Say in a sentence how the best epoch was chosen."""
    return f"The best epoch was chosen by {config.train.select_by} on {data.validation_name}."


def calibrate_best(out: Path, data: TrainingData, device: torch.device) -> None:
    """Measure what the scores of the best epoch mean, where enough queries were held back for that."""
    if len(data.validation) < LEAST_QUERIES:
        say(f"note: scores are not calibrated, as fewer than {LEAST_QUERIES} queries were held back")
        return
    found = calibrate(load_trained(out, device), data.validation, data.validation_name)
    say(f"scores calibrated: temperature {found.temperature:.2f}, offset {found.offset:.2f}")


def seed_directory(out: Path, seed: int) -> Path:
    """The run of a seed below the folder of all of them."""
    return out / f"seed-{seed}"


def train_seeds(workspace: Workspace, out: Path, seeds: Sequence[int], select_on: str = "") -> dict[int, RunDirectory]:
    """Train the configuration with each seed, one after the other; finished ones are not trained again."""
    runs, config = {}, workspace.config
    for seed in seeds:
        say(f"--- seed {seed}")
        own = replace(workspace, config=replace(config, train=replace(config.train, seed=seed)))
        runs[seed] = train(own, seed_directory(out, seed), select_on)
    return runs


def announce(config: Config, data: TrainingData, steps: Steps) -> None:
    """Print the plan."""
    train, network = config.train, steps.state.network
    say(
        f"training {config.name}: {len(data.train)} queries of {len(data.train.groups)} groups, "
        f"{steps.per_epoch} steps an epoch, {train.epochs} epochs"
    )
    parameters = sum(p.numel() for p in network.parameters())
    say(
        f"network: {config.model.name}, {parameters:,} parameters, frames {data.train.frames.dim}, "
        f"words {data.text.dim}, {data.vocabulary.classes} word classes; {steps.device}, {train.precision}"
    )
    say(f"validation: {len(data.validation)} queries, {data.validation_name}; best epoch by {train.select_by}")
    if train.compile:
        slower = "; on a CPU its steps are slower than without" if steps.device.type == "cpu" else ""
        say(f"note: the first steps wait minutes for the compiler{slower}")
    if data.validation_name in config.dataset.test_splits:
        say(
            f"note: the best epoch is chosen on {data.validation_name}, a test split, as published; "
            "its figures there are too good"
        )


def keep_inputs(run: RunDirectory, config: Config, data: TrainingData) -> None:
    """Write what the run is made from and what its answers need beside the weights."""
    run.write_text("config.yaml", config.to_yaml())
    if isinstance(data.text, VectorText):
        data.text.table.save(run.path / WORD_TABLE_FILE)


def train_epoch(steps: Steps, run: RunDirectory, data: TrainingData) -> float:
    """Do the steps of the epoch that are left, saving on the way; returns the seconds that they took."""
    state, train, leads = steps.state, steps.config.train, steps.world.leads
    state.network.train()
    batches, first = steps.batches(state.progress.epoch), state.progress.step
    started = saved = time.monotonic()
    unread: list[StepFigures] = []
    with ProgressBar(f"epoch {state.progress.epoch + 1}/{train.epochs}", len(batches), first) as bar:
        for step in range(first, len(batches)):
            unread.append(steps.take(batches[step], step))
            save = leads and time.monotonic() - saved > train.checkpoint_every_s
            if save or len(unread) == READ_EVERY or step + 1 == len(batches):
                add_to_progress(state.progress, unread)
                bar.update(step + 1, f"loss {state.progress.sums['total'] / state.progress.step:.3f}")
            write_point("train:step")
            if save:
                state.save_last(run, steps.config, data)
                saved = time.monotonic()
    return time.monotonic() - started


def is_validated(epoch: int, config: Config) -> bool:
    """Say whether the network is validated after an epoch: every so many, and after the last one."""
    return epoch + 1 == config.train.epochs or (epoch + 1) % config.train.validate_every == 0


def validate(state: TrainingState, data: TrainingData, config: Config, world: World) -> Scores:
    """Score the answers to the validation queries, by the averaged weights when averaging is on."""
    own = None
    if state.average is not None:
        own = {k: v.clone() for k, v in state.network.answering_state().items()}
        state.network.load_answering_state(state.average.weights)
    state.network.eval()
    scores = evaluate_split(state.network, data.validation, config, world)
    if own is not None:
        state.network.load_answering_state(own)
    say(render_text(metrics_table({f"epoch {state.progress.epoch + 1}": scores})))
    return scores


def is_best(progress: Progress, scores: Scores | None, config: Config) -> bool:
    """Note an epoch in the progress, and return True, when it is the best one so far."""
    if scores is None:
        return False
    score = selection_score(scores, config.train.select_by)
    if score <= progress.best_score:
        return False
    progress.best_score, progress.best_epoch = score, progress.epoch
    return True


def selection_score(scores: Scores, select_by: str) -> float:
    """The figure that chooses the best epoch."""
    full = scores.full
    figures = {"mAP": full.ap_average, "mIoU": full.miou, "R1@0.5": full.r1[0.5], "R1@0.7": full.r1[0.7]}
    if select_by == "R1+mIoU":
        return sum(full.r1[threshold] for threshold in (0.3, 0.5, 0.7)) + full.miou
    return figures[select_by]


def figures_of_epoch(steps: Steps, seconds: float, scores: Scores | None) -> dict[str, Any]:
    """Return the row of metrics.jsonl: means of the loss parts, and the validation's figures where there are some."""
    progress = steps.state.progress
    last_step = progress.epoch * steps.per_epoch + progress.step - 1
    row: dict[str, Any] = {
        "epoch": progress.epoch,
        "steps": progress.step,
        "learning_rate": learning_rate(steps.config.train, last_step, steps.per_epoch),
        "seconds": round(seconds, 2),
        "loss": {name: value / max(progress.step, 1) for name, value in progress.sums.items()},
    }
    return row if scores is None else {**row, "validation": scores.brief()}


def best_so_far(progress: Progress, config: Config) -> str:
    """Name the best epoch and its figure."""
    return f"{progress.best_epoch + 1} by {config.train.select_by} {progress.best_score:.2f}"
