"""`show`: answers that were kept, cut, listed, on a page or played."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesm.pipeline.commands.showing import Showing, with_showing


@with_showing
def show(
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS", help="Lines of JSON that ground or search printed.")],
    showing: Showing,
) -> int:
    """Show answers that were kept: on a page, as films, lists for editors, stills, or in a player.

    Example: mesm-pipeline show answers.jsonl --html answers.html --srt answers.srt --open
    """
    from mesm.pipeline.ground.answer_lines import read_answer_lines

    return showing.show(read_answer_lines(answers))
