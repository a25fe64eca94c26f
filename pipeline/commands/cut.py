"""`cut`: moments as films of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesm.pipeline.commands.output import OK, SOME_FAILED
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say

if TYPE_CHECKING:
    from mesm.pipeline.ground.answers import FoundMoment


def cut(
    source: Annotated[Path, typer.Argument(metavar="ANSWERS|FILE", help="Lines of JSON, or a video file.")],
    rest: Annotated[
        list[str], typer.Argument(metavar="DIR|START END", help="Folder, or seconds (or h:mm:ss) in the file.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for a cut of FILE; default: this one.")] = None,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="Exact borders, encoded anew; else copied from a key frame on.")
    ] = False,
    pad: Annotated[float, typer.Option(min=0, help="Seconds more on both sides.")] = 0.0,
    min_score: Annotated[float | None, typer.Option(help="Leave out answers with a lower score.")] = None,
    join: Annotated[Path | None, typer.Option(help="Also join all moments into this one film.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files.")] = False,
) -> int:
    """Cut moments out of their films: those of `ground --json` or `search --json`, or one by its seconds.

    Examples: mesm-pipeline cut answers.jsonl clips; mesm-pipeline cut film.mp4 12.5 18 --reencode --out clips
    """
    from mesm.pipeline.commands.showing import above, cut_into

    if len(rest) == 2:
        moments, folder = [_by_hand(source, *rest)], out or Path()
    elif len(rest) == 1:
        from mesm.pipeline.ground.answer_lines import read_answer_lines

        if out is not None:
            raise PipelineError("--out is for a cut of FILE START END; for answers, give the folder after them")
        moments, folder = above(read_answer_lines(source), min_score), Path(rest[0])
        if not moments:
            say(f"note: no moment in {source}" + ("" if min_score is None else f" has a score of {min_score:g}"))
    else:
        raise PipelineError("expected ANSWERS.jsonl DIR, or FILE START END")
    complete = cut_into(moments, folder, reencode, pad, force, join)
    return OK if complete else SOME_FAILED


def _by_hand(film: Path, start: str, end: str) -> FoundMoment:
    from mesm.pipeline.ground.answers import FoundMoment

    start_s, end_s = _seconds(start), _seconds(end)
    if not start_s < end_s:
        raise PipelineError(f"a moment from {start} to {end} cannot be; give a start before its end")
    return FoundMoment(film, start_s, end_s, 1.0, "", "", "")


def _seconds(text: str) -> float:
    """Read seconds, m:ss or h:mm:ss; PipelineError."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text, re.ASCII):
        raise PipelineError(f"{text!r} is no time; expected seconds, m:ss or h:mm:ss, such as 75.5 or 1:15.5")
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total
