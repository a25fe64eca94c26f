"""`configs` and `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from mesm.pipeline.commands.output import OK, SOME_FAILED, show


def configs(name: Annotated[str, typer.Argument(help="Print this one completely.")] = "") -> int:
    """List the shipped configurations, or print one with every value.

    Example: mesm-pipeline configs demo
    """
    from mesm.pipeline.config.load import load_config, shipped_configs, shipped_recipes

    if name:
        show(load_config(name).to_yaml().rstrip("\n"))
        return OK
    for shipped, purpose in shipped_configs().items():
        show(f"{shipped:40} {purpose}")
    for recipe, purpose in shipped_recipes().items():
        show(f"{'--recipe ' + recipe:40} {purpose}")
    return OK


def doctor() -> int:
    """Check this machine: packages, decoders, device, cache.

    Example: mesm-pipeline doctor
    """
    from mesm.pipeline.run.doctor import examine

    failed = False
    for name, passed, finding in examine():
        failed = failed or not passed
        show(f"{'ok' if passed else 'PROBLEM':8}{name:16}{finding}")
    return SOME_FAILED if failed else OK
