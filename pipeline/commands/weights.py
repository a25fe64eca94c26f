"""`weights` and `extractors`: the encoders and what they need."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from mesm.pipeline.commands.options import (
    JsonOption,
)
from mesm.pipeline.commands.output import OK, SOME_FAILED, print_json, show
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Weights of the encoders.\n\nExample: mesm-pipeline weights get openai-clip-vit-b-32",
)


def extractors(as_json: JsonOption = False) -> int:
    """List the encoders with their weights and licences.

    Example: mesm-pipeline extractors
    """
    import dataclasses

    from mesm.extractors.encoders.registry import describe_encoders

    rows = describe_encoders()
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return OK
    from rich.table import Table

    table = Table("encoder", "kind", "dim", "clip s", "weights", "here", "licence", box=None, header_style="bold")
    for row in rows:
        table.add_row(
            row.name,
            row.kind,
            str(row.dim or "-"),
            f"{row.clip_len_s:g}" if row.clip_len_s else "-",
            row.weights or "-",
            {True: "yes", False: "no", None: "-"}[row.available],
            row.licence or "-",
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    return OK


@app.command("list")
def weights_list() -> int:
    """List the files of weights, and which are here."""
    from mesm.extractors.weights.sources import WeightSources, local_path
    from mesm.extractors.weights.table import WEIGHTS

    for entry in WEIGHTS.values():
        here = local_path(entry, WeightSources())
        show(f"{entry.name}\t{here or 'not here'}\t{entry.licence}\t{entry.url}")
    return OK


@app.command("get")
def weights_get(names: Annotated[list[str], typer.Argument(help="Names of the table.")]) -> int:
    """Download files of weights into the cache and check them."""
    from mesm.extractors.weights.sources import WeightSources, find_weights
    from mesm.extractors.weights.table import WEIGHTS

    for name in names:
        if name not in WEIGHTS:
            raise PipelineError(f"no weights are called {name!r}; expected one of {', '.join(WEIGHTS)}")
        say(f"{name}: licence {WEIGHTS[name].licence}")
        show(find_weights(name, WeightSources()).path)
    return OK


@app.command("check")
def weights_check() -> int:
    """Check the files in the cache against their published checksums."""
    from mesm.extractors.weights.sources import WeightSources, local_path, verify_weights
    from mesm.extractors.weights.table import WEIGHTS

    bad = 0
    for entry in WEIGHTS.values():
        path = local_path(entry, WeightSources())
        if path is None:
            continue
        problems = verify_weights(entry, path)
        bad += bool(problems)
        show(f"{entry.name}: {'; '.join(problems) or 'ok'}")
    return SOME_FAILED if bad else OK
