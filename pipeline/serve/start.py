"""Starting the page: what answers, where it listens, and what is left when it ends."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.serve.asking import open_asker
from mesm.pipeline.serve.desk import Desk
from mesm.pipeline.serve.guard import is_loopback
from mesm.pipeline.serve.limits import Limits
from mesm.pipeline.serve.scratch import Scratch
from mesm.pipeline.serve.workshop import Workshop


def run_server(
    index: Path | None,
    checkpoint: Path | None,
    device: Any,
    sources: Any,
    limits: Limits,
    host: str,
    port: int,
    token: str,
    show: Callable[[str], object],
    say: Callable[[str], object],
) -> None:
    """Serve until told to end; `show` gets the address, `say` what else is to be known.

    PipelineError when Gradio is not installed, or the address is taken; errors of `open_asker`.
    """
    try:
        from mesm.pipeline.serve import web
    except ImportError as error:
        raise PipelineError(
            f'the page needs Gradio, which is not here ({error}); pip install "mesm-pipeline[serve]"'
        ) from error
    if not token and not is_loopback(host):
        token = secrets.token_urlsafe(16)
        say("note: others can reach this address, so the page asks for a token; give your own by --token")
    with web.listen(host, port) as listening, Scratch() as scratch:
        found = listening.getsockname()[1]
        with Desk(partial(open_asker, index, checkpoint, device, sources), scratch, limits) as desk:
            app = web.make_app(desk, Workshop(scratch, limits), host, found, token)
            shown = f"[{host}]" if ":" in host else host
            address = f"http://{shown}:{found}/" + (f"?token={token}" if token else "")
            web.run(app, listening, lambda: show(address))
