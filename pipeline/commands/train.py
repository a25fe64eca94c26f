"""`train` and `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesm.pipeline.commands.options import (
    AnnotationsOption,
    ConfigOption,
    DeviceOption,
    FeaturesOption,
    SelectOption,
    SetOption,
    find_device,
)
from mesm.pipeline.commands.output import OK, SOME_FAILED, print_table, show


def train(
    out: Annotated[Path, typer.Option("--out", help="Run directory; an unfinished run goes on.")],
    config: ConfigOption = "charades-clip-slowfast",
    annotations: AnnotationsOption = None,
    features: FeaturesOption = Path("features"),
    device: DeviceOption = "auto",
    select_on: SelectOption = "",
    recipe: Annotated[
        str, typer.Option(help="How to train: fast, small-data or a .yaml file; default: as published.")
    ] = "",
    network: Annotated[str, typer.Option(help="Train this network; default: the configuration's.")] = "",
    seeds: Annotated[str, typer.Option(help="Train several, such as 0,1,2, in folders below --out.")] = "",
    overrides: SetOption = None,
) -> int:
    """Train a network on feature shards; the same command again resumes.

    The best epoch is chosen on queries held back from the training split, unless --select-on names one.

    Example: mesm-pipeline train --config charades-mini --annotations charades --out runs/a
    """
    from mesm.pipeline.config.load import load_config
    from mesm.pipeline.train.recipe import train as run_training
    from mesm.pipeline.workspace import Workspace

    settings = load_config(config, overrides or [], recipe, network)
    workspace = Workspace(settings, annotations, features, find_device(device))
    workspace.require_annotations()
    if not seeds:
        run_training(workspace, out, select_on)
        show(out)
        return OK
    from mesm.pipeline.experiments.seeds import best_figures, parse_seeds, summary
    from mesm.pipeline.train.recipe import train_seeds

    runs = train_seeds(workspace, out, parse_seeds(seeds), select_on)
    print_table(summary({f"seed {seed}": best_figures(run) for seed, run in runs.items()}), "best epochs, validation")
    return OK


def reproduce(
    setting: Annotated[str, typer.Argument(metavar="SETTING", help="Setting of the papers, such as tacos-c3d-glove.")],
    annotations: AnnotationsOption = None,
    features: FeaturesOption = Path("features"),
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the runs; default: runs/SETTING.")] = None,
    device: DeviceOption = "auto",
    seeds: Annotated[str, typer.Option(help="Seeds to train.")] = "",
    select_on: SelectOption = "",
    as_published: Annotated[
        bool, typer.Option("--as-published", help="Best epoch on the test split, and rounding, as the published code.")
    ] = False,
    check_only: Annotated[bool, typer.Option("--check", help="Only say what is there and what is missing.")] = False,
    overrides: SetOption = None,
) -> int:
    """Train a setting of the paper and print its table row beside ours.

    First says whether annotations and features are complete, and how to get what is missing.

    Example: mesm-pipeline reproduce charades-clip-slowfast --annotations charades --seeds 0,1,2
    """
    from mesm.pipeline.experiments import reproduce as stage
    from mesm.pipeline.experiments.paper import published_settings
    from mesm.pipeline.experiments.seeds import parse_seeds
    from mesm.pipeline.workspace import Workspace

    config = stage.setting_config(setting, as_published, overrides or [])
    workspace = Workspace(config, annotations, features, find_device(device))
    workspace.require_annotations()
    if check_only:
        rows = stage.check(workspace)
        show(stage.describe(rows))
        return OK if all(row.found for row in rows) else SOME_FAILED
    chosen = select_on or (published_settings()[setting].select_on if as_published else "")
    numbers = parse_seeds(seeds) if seeds else [config.train.seed]
    folder = out or Path("runs") / setting
    tables = stage.reproduce(setting, workspace, folder, numbers, chosen)
    for split, table in tables.items():
        print_table(table, f"{setting}, {split}")
    return OK
