"""Options that several commands have, and what their values mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mesm.pipeline.config.errors import PipelineError

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="Shipped configuration, or a .yaml file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
FeaturesOption = Annotated[Path, typer.Option("--features", help="Folder of features.")]
AnnotationsOption = Annotated[Path | None, typer.Option("--annotations", help="Folder or file of the annotations.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")]
SelectOption = Annotated[str, typer.Option(help="Choose the best epoch on this split.")]
WeightsOption = Annotated[
    list[str] | None, typer.Option("--weights", metavar="NAME=PATH", help="Use this file, or untrained:SEED.")
]
TrustOption = Annotated[bool, typer.Option("--trust-pickle", help="Open weights that need Python's pickle.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def find_device(name: str) -> Any:
    """Return the torch device of that name; PipelineError when it is none, or not here."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PipelineError(f"--device {name}: expected cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PipelineError("--device cuda: torch sees no CUDA device here; use --device cpu")
    return device


def weight_sources(weights: list[str] | None, trust_pickle: bool) -> Any:
    """Return where weights come from, by NAME=PATH entries; PipelineError for a name that is not in the table.

    Instead of a path, `untrained:SEED` gives the network random weights.
    """
    from mesm.extractors.weights.sources import WeightSources, untrained_seed
    from mesm.extractors.weights.table import WEIGHTS

    files: dict[str, Path] = {}
    untrained: dict[str, int] = {}
    for entry in weights or []:
        name, equals, path = entry.partition("=")
        if not equals or name not in WEIGHTS:
            raise PipelineError(f"--weights {entry}: expected NAME=PATH with one of {', '.join(sorted(WEIGHTS))}")
        seed = untrained_seed(path)
        if seed is None:
            files[name] = Path(path)
        else:
            untrained[name] = seed
    return WeightSources(files=files, untrained=untrained, trust_pickle=trust_pickle)
