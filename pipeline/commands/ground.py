"""`ground`: the moments of videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mesm.pipeline.commands.asking import (
    AnswerPrinter,
    CsvOption,
    ImageOption,
    JsonLinesOption,
    QueriesOption,
    QueryOption,
    WithoutOption,
    asked,
)
from mesm.pipeline.commands.options import DeviceOption, TrustOption, WeightsOption, find_device, weight_sources
from mesm.pipeline.commands.output import OK, SOME_FAILED, show
from mesm.pipeline.commands.showing import Showing, with_showing
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say
from mesm.pipeline.run.shown_text import one_line

if TYPE_CHECKING:
    from mesm.pipeline.ground.answers import EncodedVideo, FoundMoment, GroundingResult
    from mesm.pipeline.ground.grounder import Grounder
    from mesm.pipeline.ground.questions import Question


@with_showing
def ground(
    videos: Annotated[list[Path] | None, typer.Argument(metavar="VIDEOS", help="Video files, or folders.")] = None,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The sentence.")] = "",
    more: QueryOption = None,
    queries: QueriesOption = None,
    image: ImageOption = None,
    without: WithoutOption = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Run directory; default: the only one here.")] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Answer without any run.")] = False,
    model: Annotated[str, typer.Option(help="Model without a run: NAME/TAG of open_clip, or of transformers.")] = "",
    decoder: Annotated[str, typer.Option(help="Without a run: procedure that reads spans; default: overlap.")] = "",
    top_k: Annotated[int, typer.Option(min=1, help="Number of answers.")] = 5,
    features: Annotated[Path | None, typer.Option(help="Look for, and keep, features here.")] = None,
    index: Annotated[Path | None, typer.Option(help="Take the vectors of films that this index has.")] = None,
    device: DeviceOption = "auto",
    weights: WeightsOption = None,
    trust_pickle: TrustOption = False,
    as_json: JsonLinesOption = False,
    as_csv: CsvOption = False,
    *,
    showing: Showing,
) -> int:
    """Find the moments of videos that a sentence describes, by a trained network, or without one if none is here.

    Example: mesm-pipeline ground video.mp4 "a person opens the door"
    """
    places = list(videos or [])
    if query and (more or queries or image):
        # With the questions in options, what stands last is a video, too.
        places, query = [*places, Path(query)], ""
    printer = AnswerPrinter(as_json, as_csv)
    questions = asked(query, more, queries, image, without)
    files = _files(places)
    grounder = _grounder(checkpoint, zero_shot, model, decoder, questions, features, device, weights, trust_pickle)
    code, moments, curves = OK, [], {}
    for file in files:
        encoded = _encoded(file, grounder, features, index, alone=len(files) == 1)
        if encoded is None:
            code = SOME_FAILED
            continue
        for result, found in _answers(encoded, questions, grounder, top_k, printer, len(files) * len(questions) == 1):
            if showing.wanted:
                moments += found
                curves[file, result.query] = (result.times.tolist(), result.saliency.tolist())
    return max(code, showing.show(moments, curves))


def _grounder(
    checkpoint: Path | None,
    zero_shot: bool,
    model: str,
    decoder: str,
    questions: Sequence[Question],
    features: Path | None,
    device: str,
    weights: list[str] | None,
    trust_pickle: bool,
) -> Grounder:
    """Return what answers: a run, the given one or the only one here, or else an image-text model."""
    forced = zero_shot or bool(model) or bool(decoder)
    if forced and checkpoint is not None:
        raise PipelineError(
            "--checkpoint answers with a run, --zero-shot, --model and --decoder with none; give one of them"
        )
    from mesm.pipeline.ground.retriever import MomentRetriever, find_checkpoint

    place = None if forced else find_checkpoint(checkpoint)
    sources = weight_sources(weights, trust_pickle)
    if place is not None:
        if not all(question.plain for question in questions):
            raise PipelineError("--image and --without ask without a run; add --zero-shot")
        return MomentRetriever.from_checkpoint(place, find_device(device), sources, features)
    return _without_a_run(model, decoder, device, sources, forced)


def _files(places: Sequence[Path]) -> list[Path]:
    """Return the videos of files and folders, each once."""
    from mesm.pipeline.index.planning import list_files

    if not places:
        raise PipelineError("no video: give video files or folders, then the query")
    files = [
        file for place in places for file in ([one.path for one in list_files(place)] if place.is_dir() else [place])
    ]
    if not files:
        raise PipelineError(f"{', '.join(map(str, places))}: no video in there")
    return list(dict.fromkeys(files))


def _encoded(
    file: Path, grounder: Grounder, features: Path | None, index: Path | None, alone: bool
) -> EncodedVideo | None:
    """Return the rows of a video, from the index when it has them; None, and a line, when it cannot be read.

    A video that is asked about alone raises its VideoError.
    """
    from mesm.extractors.errors import VideoError
    from mesm.pipeline.ground.zero_shot import ZeroShot
    from mesm.pipeline.index.store import IndexStore

    if index is not None:
        if not isinstance(grounder, ZeroShot):
            raise PipelineError("--index holds vectors for answers without a run; add --zero-shot")
        opened = IndexStore.open(index)
        opened.refuse_other_model(grounder.model, grounder.text.spec)
        kept = opened.encoded(file)
        opened.close()
        if kept is not None:
            return kept
    try:
        return grounder.encode_video(file, cache=features)
    except VideoError as error:
        if alone:
            raise
        say(f"failed: {file}: {error}")
        return None


def _answers(
    encoded: EncodedVideo,
    questions: Sequence[Question],
    grounder: Grounder,
    top_k: int,
    printer: AnswerPrinter,
    alone: bool,
) -> Iterator[tuple[GroundingResult, list[FoundMoment]]]:
    """Print and yield the answers to each question, and say what has to be known of them."""
    from mesm.pipeline.ground.grounder import found_moments

    cut, unsure = 0, 0
    for result in _results(encoded, questions, grounder, top_k):
        cut += result.words_cut
        unsure += result.match is not None and not result.match.confident
        if printer.as_text:
            if not alone:
                show(f"{one_line(str(encoded.path))}: {one_line(result.query)}")
            _print_moments(result)
        found = found_moments(grounder, encoded, result)
        printer.print(found)
        yield result, found
    if cut:
        which = "the query" if len(questions) == 1 else f"{cut} queries"
        say(f"note: {grounder.model} reads {grounder.max_words} words; the rest of {which} was left out")
    if unsure:
        which = "the query stands" if len(questions) == 1 else f"{unsure} queries stand"
        say(f"note: no confident match: {which} out in this video no more than any sentence does")


def _results(
    encoded: EncodedVideo, questions: Sequence[Question], grounder: Grounder, top_k: int
) -> Iterator[GroundingResult]:
    if all(question.plain for question in questions):
        yield from grounder.ground_many(encoded, [question.text for question in questions], top_k)
        return
    from mesm.pipeline.ground.zero_shot import ZeroShot

    assert isinstance(grounder, ZeroShot)
    for question in questions:
        yield grounder.ground(encoded, question, top_k)


def _without_a_run(model: str, decoder: str, device: str, sources: Any, forced: bool) -> Grounder:
    """Build the grounder that needs no run, and say so."""
    from mesm.pipeline.ground.zero_shot import DEFAULT_MODEL, ZeroShot, reading_by

    reading = reading_by(decoder)

    name = model or DEFAULT_MODEL
    why = "" if forced else "no --checkpoint was given and no run is here; "
    say(
        f"note: {why}{name} answers without training on moments; a score ranks the moments of this video, "
        "it is no probability"
    )
    grounder = ZeroShot.from_model(name, find_device(device), sources, reading)
    if grounder.untrained:
        say(f"warning: the weights of {name} are random: this answer is meaningless")
    return grounder


def _print_moments(result: GroundingResult) -> None:
    from rich.table import Table

    table = Table("start", "end", "score", box=None, header_style="bold")
    for moment in result.moments:
        table.add_row(_clock(moment.start_s), _clock(moment.end_s), f"{moment.score:.3f}")
    Console(highlight=False).print(table)


def _clock(seconds: float) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{int(hours)}:{int(minutes):02d}:{rest:05.2f}" if hours else f"{int(minutes)}:{rest:05.2f}"
