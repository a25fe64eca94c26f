"""`serve`: a page on which films are asked and watched."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesm.pipeline.commands.options import DeviceOption, TrustOption, WeightsOption, find_device, weight_sources
from mesm.pipeline.commands.output import OK, show
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say

if TYPE_CHECKING:
    from mesm.pipeline.serve.asking import Opener
    from mesm.pipeline.serve.limits import Limits

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
    web = _web()
    if index is None and DEFAULT_INDEX.exists():
        index = DEFAULT_INDEX
    if index is None and not uploads:
        raise PipelineError("there is no film to ask: give an index by --index, or let films be uploaded by --uploads")
    from mesm.pipeline.serve.asking import open_asker
    from mesm.pipeline.serve.limits import MIB, Limits

    limits = Limits(upload_mb * MIB, upload_minutes * 60, uploads, uploads_mb * MIB)
    found, sources = find_device(device), weight_sources(weights, trust_pickle)
    _run(web, lambda: open_asker(index, checkpoint, found, sources), limits, host, port, token)
    return OK


def _web() -> Any:
    """Return the module of the page; PipelineError when what draws it is not installed."""
    try:
        from mesm.pipeline.serve import web
    except ImportError as error:
        raise PipelineError(
            f'the page needs Gradio, which is not here ({error}); pip install "mesm-pipeline[serve]"'
        ) from error
    return web


def _run(web: Any, opener: Opener, limits: Limits, host: str, port: int, token: str) -> None:
    """Serve until told to end, and leave nothing behind."""
    from mesm.pipeline.serve.desk import Desk
    from mesm.pipeline.serve.guard import is_loopback
    from mesm.pipeline.serve.scratch import Scratch
    from mesm.pipeline.serve.workshop import Workshop

    if not token and not is_loopback(host):
        token = secrets.token_urlsafe(16)
        say("note: others can reach this address, so the page asks for a token; give your own by --token")
    with web.listen(host, port) as listening, Scratch() as scratch:
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")

        def tell() -> None:
            show(address)
            sys.stdout.flush()

        workshop = Workshop(scratch, limits)
        with Desk(opener, scratch, limits, workshop.forget) as desk:
            web.run(web.make_app(desk, workshop, host, port, token), listening, tell)
