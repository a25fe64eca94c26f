"""`serve`: a page on which films are asked and watched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mesm.pipeline.commands.options import DeviceOption, TrustOption, WeightsOption, find_device, weight_sources
from mesm.pipeline.commands.output import OK, show
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say

DEFAULT_INDEX = Path("mesm-index")


def serve(
    index: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The index; default: mesm-index.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The network of this run answers.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 7860,
    token: Annotated[str, typer.Option(help="What visitors have to know.")] = "",
    uploads: Annotated[int, typer.Option(min=0, help="Films that a visitor may upload; 0: none.")] = 5,
    upload_mb: Annotated[int, typer.Option(min=1, help="Largest upload, in MiB.")] = 500,
    upload_minutes: Annotated[float, typer.Option(min=0.01, help="Longest upload.")] = 60.0,
    uploads_mb: Annotated[int, typer.Option(min=1, help="All uploads together, in MiB.")] = 4000,
    device: DeviceOption = "auto",
    weights: WeightsOption = None,
    trust_pickle: TrustOption = False,
) -> int:
    """Show a page on which films are asked, watched and cut. Ctrl-C ends it.

    Example: mesm-pipeline serve --index mesm-index
    """
    from mesm.pipeline.serve.limits import MIB, Limits
    from mesm.pipeline.serve.start import run_server

    if index is None and DEFAULT_INDEX.exists():
        index = DEFAULT_INDEX
    if index is None and not uploads:
        raise PipelineError("there is no film to ask: give an index by --index, or let films be uploaded by --uploads")
    limits = Limits(upload_mb * MIB, upload_minutes * 60, uploads, uploads_mb * MIB)
    sources = weight_sources(weights, trust_pickle)

    def tell(address: str) -> None:
        show(address)
        sys.stdout.flush()

    run_server(index, checkpoint, find_device(device), sources, limits, host, port, token, tell, say)
    return OK
