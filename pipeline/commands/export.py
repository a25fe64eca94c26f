"""`export`: a run as a package that travels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesm.pipeline.commands.output import OK, show
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or a package to push.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write the package to.")] = None,
    push: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Also upload it to the hub ($HF_ENDPOINT).")] = "",
    licence: Annotated[str, typer.Option("--license", help="Licence of the weights, as the hub names it.")] = "",
    revision: Annotated[str | None, typer.Option(help="Branch of the hub to push to.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that is new a private one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a package; push a card without figures.")] = False,
) -> int:
    """Write a run as a folder that travels: weights, configuration, figures, a card and hashes.

    Example: mesm-pipeline export runs/a --out packages/a --push owner/name
    """
    from mesm.pipeline.run.package import is_package
    from mesm.pipeline.share.card import read_figures
    from mesm.pipeline.share.export import export_run

    if out is None and not (push and is_package(run)):
        raise PipelineError("give --out, the folder for the package")
    if not push and (revision is not None or private):
        raise PipelineError("--revision and --private are for --push")
    package = run if out is None else export_run(run, out, licence, force)
    if not read_figures(package):
        say("note: no figures were measured; run `mesm-pipeline evaluate` on the run, and export it again")
    show(package)
    if push:
        from mesm.pipeline.share.hub import push as push_package

        show(push_package(package, push, revision=revision, private=private, force=force))
    return OK
