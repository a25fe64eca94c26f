"""`learning-curve`: what more annotations are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesm.pipeline.commands.options import (
    AnnotationsOption,
    ConfigOption,
    DeviceOption,
    FeaturesOption,
    JsonOption,
    SetOption,
    find_device,
)
from mesm.pipeline.commands.output import OK, print_json, print_table


def learning_curve(
    out: Annotated[Path, typer.Option("--out", help="Folder of runs and chart; an unfinished curve goes on.")],
    shares: Annotated[str, typer.Option(help="Per cent of the training videos.")] = "10,25,50,100",
    config: ConfigOption = "charades-clip-slowfast",
    annotations: AnnotationsOption = None,
    features: FeaturesOption = Path("features"),
    recipe: Annotated[str, typer.Option(help="How to train, a recipe or a .yaml file; default: as published.")] = "",
    network: Annotated[str, typer.Option(help="Train this network; default: the configuration's.")] = "",
    split: Annotated[str, typer.Option(help="Split to score on; default: the first test split.")] = "",
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Train on growing shares of the training videos and chart the figures; the same command again resumes.

    Writes learning-curve.json and learning-curve.html below --out.

    Example: mesm-pipeline learning-curve --config charades-mini-span-map --annotations charades --out runs/curve
    """
    from mesm.pipeline.config.load import load_config
    from mesm.pipeline.experiments.learning_curve import learning_curve as run_curve
    from mesm.pipeline.experiments.learning_curve import parse_shares
    from mesm.pipeline.workspace import Workspace

    settings = load_config(config, overrides or [], recipe, network)
    workspace = Workspace(settings, annotations, features, find_device(device))
    curve = run_curve(workspace, parse_shares(shares), split, out)
    if as_json:
        print_json(curve.as_record())
    else:
        print_table(curve.table(), curve.split)
    return OK
