"""The command line: `mesm-pipeline COMMAND`. Results go to stdout, everything else to stderr.

Exit codes: 0 all done; 1 finished, but some items failed; 2 wrong usage or configuration; 130 interrupted (143
by SIGTERM, 129 by SIGHUP).
"""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer

from mesm.pipeline import __version__
from mesm.pipeline.commands import (
    archive,
    check,
    compare,
    cut,
    demo,
    evaluate,
    export,
    extract,
    features,
    ground,
    info,
    learning_curve,
    narrate,
    released,
    serve,
    show,
    train,
    weights,
)
from mesm.pipeline.commands.output import INTERRUPTED, OK, USAGE
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say
from mesm.pipeline.run.interrupts import MESSAGE, answer_interrupts, exit_code, leave
from mesm.pipeline.run.threads import wait_quietly

USAGE_ERROR: Any = next(base for base in reversed(typer.BadParameter.__mro__) if hasattr(base, "show"))
"""Base of all errors in the use of the command line; newer typers bring a click of their own."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Find the moment in a video that a sentence describes.\n\nExample: mesm-pipeline demo --out mesm-demo",
)
app.command()(extract.extract)
app.command()(narrate.narrate)
app.command()(check.check)
app.command()(train.train)
app.command()(train.reproduce)
app.command()(compare.compare)
app.command()(learning_curve.learning_curve)
app.command()(evaluate.evaluate)
app.command()(ground.ground)
app.command()(archive.index)
app.command()(archive.search)
app.command()(export.export)
app.command()(show.show)
app.command()(cut.cut)
app.command()(serve.serve)
app.command()(demo.demo)
app.command("import-checkpoint")(released.import_checkpoint)
app.command("import-features")(released.import_features)
app.command()(features.verify)
app.command()(features.compact)
app.command()(weights.extractors)
app.command()(info.configs)
app.command()(info.doctor)
app.add_typer(features.app, name="features")
app.add_typer(weights.app, name="weights")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line and exit with its code; a user's mistake is one message, never a traceback."""
    answer_interrupts()
    wait_quietly()
    # A terminal of another encoding than the names of files is no reason to lose a result.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    leave(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        result = app(arguments, standalone_mode=False, prog_name="mesm-pipeline")
    except typer.Exit as error:
        result = error.exit_code
    except USAGE_ERROR as error:
        error.show()
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        return OK
    except OSError as error:
        say(f"error: {error.filename or 'standard output, or a temporary file'}: {error.strerror or error}")
        return USAGE
    except Exception as error:
        if not isinstance(error, _users_mistakes()):
            raise
        say(f"error: {error}")
        return USAGE
    code = int(result or OK)
    # Newer typers turn Ctrl-C into this exit code themselves.
    return _interrupted() if code == INTERRUPTED else code


def _users_mistakes() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a user needs; imported when one may have been raised, as that takes seconds."""
    from mesm.datasets.errors import DatasetError
    from mesm.extractors.errors import ExtractorError

    return PipelineError, DatasetError, ExtractorError


def _interrupted() -> int:
    say(MESSAGE)
    return exit_code()


if __name__ == "__main__":
    main()
