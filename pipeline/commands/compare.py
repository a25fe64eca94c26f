"""`compare`: several networks on one setting."""

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
    SelectOption,
    SetOption,
    find_device,
)
from mesm.pipeline.commands.output import OK, print_json, print_table, show


def compare(
    out: Annotated[Path, typer.Option("--out", help="Folder of runs and tables; an unfinished comparison goes on.")],
    networks: Annotated[str, typer.Option(help="With commas between them; default: all that learn.")] = "",
    config: ConfigOption = "charades-clip-slowfast",
    annotations: AnnotationsOption = None,
    features: FeaturesOption = Path("features"),
    recipe: Annotated[
        str, typer.Option(help="How to train: fast, small-data or a .yaml file; default: as published.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0,1,2; default: the configured one.")] = "",
    epochs: Annotated[int | None, typer.Option(help="Epochs of every network; default: as configured.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split; may be repeated; `validation`: what training held back.")
    ] = None,
    select_on: SelectOption = "",
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Train and evaluate networks alike, and set them side by side; the same command again resumes.

    Writes compare.json and compare.html below --out. --set holds for every network.

    Example: mesm-pipeline compare --config charades-mini --annotations charades --seeds 0,1,2 --out runs/compare
    """
    from mesm.pipeline.experiments.compare import CompareOptions
    from mesm.pipeline.experiments.compare import compare as run_comparison
    from mesm.pipeline.experiments.entrants import configurations, parse_networks
    from mesm.pipeline.experiments.seeds import parse_seeds
    from mesm.pipeline.workspace import Workspace

    configs = configurations(config, parse_networks(networks), recipe, overrides or [], epochs)
    workspace = Workspace(next(iter(configs.values())), annotations, features, find_device(device))
    numbers = parse_seeds(seeds) if seeds else [workspace.config.train.seed]
    options = CompareOptions(configs, numbers, split or [], select_on)
    result = run_comparison(workspace, options, out)
    if as_json:
        print_json(result.record)
        return OK
    for name, table in result.tables.items():
        print_table(table, name)
    show("\n".join(result.notes))
    return OK
