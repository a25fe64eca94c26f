"""What `ground`, `search` and `show` can do with the moments that they found; one bundle of options for all.

@with_showing
def search(..., showing: Showing) -> int:
    ...
    return showing.show(moments, curves)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from mesm.pipeline.commands.output import OK, SOME_FAILED
from mesm.pipeline.run.console import say

if TYPE_CHECKING:
    from mesm.pipeline.ground.answers import FoundMoment
    from mesm.pipeline.show.page import Curves
    from mesm.pipeline.show.sources import Sources


@dataclass(frozen=True)
class Showing:
    """The options; `show` does what they ask for."""

    min_score: Annotated[float | None, typer.Option(help="Leave out answers with a lower score.")] = None
    cut: Annotated[Path | None, typer.Option(metavar="DIR", help="Cut each moment into a film of its own here.")] = None
    reencode: Annotated[bool, typer.Option("--reencode", help="Cut with exact borders, encoded anew.")] = False
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page that plays the moments.")] = None
    srt: Annotated[Path | None, typer.Option(metavar="FILE", help="Write subtitles.")] = None
    chapters: Annotated[Path | None, typer.Option(metavar="FILE", help="Write chapters for ffmpeg.")] = None
    edl: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a CMX3600 edit list.")] = None
    otio: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an OpenTimelineIO time line.")] = None
    stills: Annotated[Path | None, typer.Option(metavar="DIR", help="Write five stills of each moment here.")] = None
    open: Annotated[bool, typer.Option("--open", help="Play the best moment.")] = False
    force: Annotated[bool, typer.Option("--force", help="Overwrite cuts and stills.")] = False

    @property
    def wanted(self) -> bool:
        """Whether anything is to be done with moments."""
        asked = [field.name for field in fields(self) if getattr(self, field.name) not in (None, False)]
        return bool(set(asked) - {"min_score", "reencode", "force"})

    def show(self, moments: Sequence[FoundMoment], curves: Curves | None = None) -> int:
        """Do what is asked with moments, best first, and return the exit code.

        curves: (film, query) -> times in seconds and values, for the page.
        """
        chosen = above(moments, self.min_score)
        if not self.wanted:
            return OK
        if not chosen:
            say("note: no moment, so nothing was written")
            return OK
        from mesm.pipeline.show.sources import Sources

        sources = Sources()
        complete = self._write(chosen, sources, curves)
        if self.cut is not None:
            complete &= cut_into(chosen, self.cut, self.reencode, 0.0, self.force, None, sources, tell=say)
        if self.open:
            from mesm.pipeline.show.player import play

            best = chosen[0]
            program = play(best.file, best.start_s, self.html)
            say(f"playing {best.file} at {best.start_s:.1f} s by {program}")
        return OK if complete else SOME_FAILED

    def _write(self, moments: Sequence[FoundMoment], sources: Sources, curves: Curves | None) -> bool:
        """Write the files that tell of moments; False when some films could not be read."""
        from mesm.pipeline.show.lists import LISTS, write_lists, write_timeline

        problems: list[str] = []
        for kind in LISTS:
            out = getattr(self, kind)
            if out is not None:
                written, more = write_lists(kind, moments, out, sources)
                problems += more
                say("\n".join(f"{kind}: {path}" for path in written))
        if self.otio is not None:
            problems += write_timeline(moments, self.otio, sources)
            say(f"otio: {self.otio}")
        if self.stills is not None:
            from mesm.pipeline.show.lists import write_all_stills

            count, more = write_all_stills(moments, self.stills, sources, self.force)
            problems += more
            say(f"stills: {count} in {self.stills}")
        if self.html is not None:
            from mesm.pipeline.show.page import write_page

            write_page(self.html, moments, sources, curves)
            say(f"page: {self.html}")
        for problem in dict.fromkeys(problems):
            say(f"error: {problem}")
        return not problems


def above(moments: Sequence[FoundMoment], min_score: float | None) -> list[FoundMoment]:
    """Return the moments whose score is not below a bound."""
    return [moment for moment in moments if min_score is None or moment.score >= min_score]


def cut_into(
    moments: Sequence[FoundMoment],
    folder: Path,
    reencode: bool,
    pad_s: float,
    force: bool,
    join: Path | None,
    sources: Sources | None = None,
    tell: Callable[[str], object] = print,
) -> bool:
    """Cut moments into a folder, tell each file with what it holds, and say what could not be cut.

    Returns whether all could. A command that prints answers has to `say` what was cut.
    """
    from mesm.pipeline.show.clips import cut_moments, padded
    from mesm.pipeline.show.sources import Sources

    sources, parts, failed = sources or Sources(), [], 0
    for clip in cut_moments(moments, folder, sources, reencode, pad_s, force):
        if clip.cut is None:
            failed += 1
            say(f"error: {clip.problem}")
            continue
        tell(f"{printable(clip.cut.path)}\t{clip.cut.start_s:.3f}\t{clip.cut.end_s:.3f}")
        if not reencode:
            say(f"  begins {clip.cut.early_s:.3f} s early and ends {clip.cut.late_s:.3f} s late; --reencode is exact")
        source = sources.of(clip.moment)
        parts.append((source, *padded(source, clip.moment, pad_s)))
    if join is not None:
        from mesm.pipeline.show.joining import join as join_parts

        join_parts(parts, join, force)
        tell(printable(join))
    return not failed


def printable(path: Path) -> str:
    """Return a path that any terminal takes: bytes that are no UTF-8 are written as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def with_showing(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of `Showing` in the place of its parameter `showing`."""
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command)
    ours = get_type_hints(Showing, include_extras=True)
    options = {
        field.name: inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=ours[field.name]
        )
        for field in fields(Showing)
    }
    kept = [
        parameter.replace(annotation=hints[name]) for name, parameter in own.parameters.items() if name != "showing"
    ]
    clash = {parameter.name for parameter in kept} & set(options)
    if clash:
        raise TypeError(f"{command.__name__} has options of its own that Showing has: {', '.join(sorted(clash))}")

    @wraps(command)
    def wrapper(**values: Any) -> int:
        given = {name: values.pop(name) for name in options if name in values}
        return command(**values, showing=Showing(**given))

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in kept] + list(options.values())
    annotations: Mapping[str, Any] = {parameter.name: parameter.annotation for parameter in parameters}
    wrapper.__signature__ = own.replace(parameters=parameters, return_annotation=int)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {**annotations, "return": int}
    del wrapper.__wrapped__
    return wrapper
