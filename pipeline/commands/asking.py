"""What commands that ask have in common: questions from options, answers as text, JSON lines or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesm.pipeline.commands.output import show
from mesm.pipeline.config.errors import PipelineError

if TYPE_CHECKING:
    from mesm.pipeline.ground.answers import FoundMoment
    from mesm.pipeline.ground.questions import Question

QueryOption = Annotated[list[str] | None, typer.Option("--query", metavar="SENTENCE", help="A sentence; repeatable.")]
QueriesOption = Annotated[
    Path | None, typer.Option("--queries", metavar="FILE", help="Sentences: one a line, or JSON lines with `query`.")
]
ImageOption = Annotated[Path | None, typer.Option("--image", metavar="FILE", help="Ask for what this picture shows.")]
WithoutOption = Annotated[
    list[str] | None, typer.Option("--without", metavar="TEXT", help="Not this; `2:horse` gives it a weight.")
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print JSON lines, one a moment.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV, one line a moment.")]


def asked(
    query: str, more: Sequence[str] | None, file: Path | None, image: Path | None, without: Sequence[str] | None
) -> list[Question]:
    """Return the questions that options name; PipelineError when there is none, or one of them is empty."""
    from mesm.pipeline.ground.questions import Question, read_questions

    texts = [*([query] if query else []), *(more or []), *(read_questions(file) if file is not None else [])]
    if any(not text.strip() for text in texts) or not (texts or image is not None):
        raise PipelineError("the query is empty; describe the moment in a sentence, or give a picture by --image")
    unwanted = tuple(without or ())
    if any(not text.strip() for text in unwanted):
        raise PipelineError("--without is empty; say in words what is not wanted")
    questions = [Question(text, None, unwanted) for text in texts]
    return questions if image is None else [*questions, Question("", image, unwanted)]


class AnswerPrinter:
    """Prints answers as they come, in one of three forms."""

    def __init__(self, as_json: bool, as_csv: bool) -> None:
        """Raise PipelineError when two forms are asked for."""
        if as_json and as_csv:
            raise PipelineError("--json and --csv are two formats; give one of them")
        self.as_text = not (as_json or as_csv)
        self._json, self._first = as_json, True

    def print(self, moments: Sequence[FoundMoment]) -> None:
        """Print moments as JSON lines or CSV; nothing where text is wanted."""
        from mesm.pipeline.ground.answer_lines import answer_line, answers_csv

        if self._json:
            for moment in moments:
                show(answer_line(moment))
        elif not self.as_text:
            text = answers_csv(moments, header=self._first)
            if text:
                show(text.removesuffix("\n"))
            self._first = False
