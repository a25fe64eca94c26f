"""`demo`: the whole pipeline on generated videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesm.pipeline.commands.output import OK


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demo; an unfinished demo goes on.")] = Path(
        "mesm-demo"
    ),
    videos: Annotated[int, typer.Option(min=10, help="Videos to generate.")] = 240,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the generated videos.")] = 0,
    long: Annotated[bool, typer.Option("--long", help="Also ask an hour that shows each object once.")] = False,
) -> int:
    """Run the whole pipeline on generated videos: no download, minutes on a CPU.

    Example: mesm-pipeline demo --out mesm-demo
    """
    import torch

    from mesm.pipeline.demo.run import run_demo

    run_demo(out, videos, seed)
    if long:
        from mesm.pipeline.demo.long import run_long

        run_long(out, seed, torch.device("cpu"))
    return OK
