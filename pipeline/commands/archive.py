"""`index` and `search`: an archive of films, encoded once and asked as often as one likes."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from mesm.pipeline.commands.options import (
    DeviceOption,
    JsonOption,
    TrustOption,
    WeightsOption,
    find_device,
    weight_sources,
)
from mesm.pipeline.commands.output import OK, SOME_FAILED, print_json, show
from mesm.pipeline.commands.showing import Showing, with_showing
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say
from mesm.pipeline.run.shown_text import one_line

if TYPE_CHECKING:
    from mesm.extractors.speech import Transcriber
    from mesm.pipeline.ground.answers import Evidence, FoundMoment
    from mesm.pipeline.ground.questions import Question
    from mesm.pipeline.index.build import IndexReport
    from mesm.pipeline.index.catalogue import BrokenFile
    from mesm.pipeline.index.search import Filter, SearchResult
    from mesm.pipeline.index.store import IndexStore

    Asker = Callable[[Question, int, Filter, bool], SearchResult]

SHOWN = 20
"""Broken files that are named; all of them stand in `index --stats --json`."""

IndexOption = Annotated[Path, typer.Option("--index", metavar="FOLDER", help="The index: a folder of its own.")]


def index(
    places: Annotated[list[Path] | None, typer.Argument(metavar="FILES_OR_FOLDERS", help="Videos.")] = None,
    index: IndexOption = Path("mesm-index"),
    model: Annotated[str, typer.Option(help="NAME/TAG of open_clip, or a model of transformers.")] = "",
    checkpoint: Annotated[Path | None, typer.Option(help="Encode for the network of this run instead.")] = None,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="New index: store only seconds that differ.")] = False,
    transcribe: Annotated[
        str, typer.Option(metavar="MODEL", help="Write down what is said where no subtitles are, by this Whisper.")
    ] = "",
    prune: Annotated[bool, typer.Option("--prune", help="Forget files that are gone from these places.")] = False,
    remove: Annotated[list[Path] | None, typer.Option(help="Forget this file or folder.")] = None,
    list_files: Annotated[bool, typer.Option("--list", help="List the files of the index.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Say how much there is.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Decode processes.")] = 1,
    device: DeviceOption = "auto",
    weights: WeightsOption = None,
    trust_pickle: TrustOption = False,
    as_json: JsonOption = False,
) -> int:
    """Encode videos once, so that they can be searched; only what is new or changed is decoded.

    Example: mesm-pipeline index films/ --index mesm-index
    """
    if not (places or remove or list_files or stats or transcribe):
        raise PipelineError("nothing to do: give files or folders of videos, or --list, --stats or --remove")
    if transcribe and not places:
        raise PipelineError("--transcribe hears the films of files and folders; give some")
    code = OK
    if places:
        if checkpoint is not None and model:
            raise PipelineError("--checkpoint encodes for a network, --model for questions without; give one of them")
        if checkpoint is not None and transcribe:
            raise PipelineError(
                "--transcribe finds words, and an index for the network of --checkpoint is asked for none"
            )
        if checkpoint is not None and adaptive:
            raise PipelineError("--adaptive leaves out seconds, and the network of --checkpoint reads all of them")
        # Before hours of decoding: a model that is not to be had is said at once.
        transcriber = _transcriber(transcribe, device) if transcribe else None
        sources = weight_sources(weights, trust_pickle)
        code = _add(index, places, model, checkpoint, adaptive, prune, workers, device, sources, as_json)
        if transcriber is not None:
            code = max(code, _transcribe(index, places, transcriber))
    if remove or list_files or stats:
        from mesm.pipeline.index.store import IndexStore

        opened = IndexStore.open(index)
        for place in remove or []:
            code = max(code, _remove(opened, place))
        if list_files:
            _print_files(opened, as_json)
        if stats:
            _print_stats(opened, as_json)
    return code


@with_showing
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The sentence.")] = "",
    more: QueryOption = None,
    queries: QueriesOption = None,
    image: ImageOption = None,
    without: WithoutOption = None,
    index: IndexOption = Path("mesm-index"),
    checkpoint: Annotated[Path | None, typer.Option(help="The network of this run looks at the films.")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="Number of answers.")] = 10,
    path: Annotated[str, typer.Option(metavar="GLOB", help="Only files of such a path.")] = "",
    since: Annotated[str, typer.Option(metavar="DATE", help="Only files changed since YYYY-MM-DD.")] = "",
    longer: Annotated[str, typer.Option(metavar="TIME", help="Only films at least that long: s, m:ss, h:mm:ss.")] = "",
    shorter: Annotated[str, typer.Option(metavar="TIME", help="Only films at most that long.")] = "",
    verify: Annotated[
        str, typer.Option(metavar="MODEL", help="Have this model of pictures and text say yes or no to each.")
    ] = "",
    no_dedupe: Annotated[bool, typer.Option("--no-dedupe", help="Also show moments that look the same.")] = False,
    device: DeviceOption = "auto",
    weights: WeightsOption = None,
    trust_pickle: TrustOption = False,
    as_json: JsonLinesOption = False,
    as_csv: CsvOption = False,
    *,
    showing: Showing,
) -> int:
    """Find the moments of an index that a sentence, or a picture, describes.

    Example: mesm-pipeline search "a person opens the door" --index mesm-index
    """
    printer = AnswerPrinter(as_json, as_csv)
    questions = asked(query, more, queries, image, without)
    from mesm.pipeline.index.search import Filter, parse_seconds
    from mesm.pipeline.index.store import IndexStore

    allowed = Filter(
        path,
        _date(since),
        parse_seconds(longer, "--longer") if longer else 0.0,
        parse_seconds(shorter, "--shorter") if shorter else float("inf"),
    )
    if verify and image is not None:
        raise PipelineError("--verify asks about a sentence, --image has none; give one of them")
    opened = IndexStore.open(index)
    ask = _asker(opened, checkpoint, find_device(device), weight_sources(weights, trust_pickle))
    ask = _verifying(ask, verify, find_device(device)) if verify else ask
    moments: list[FoundMoment] = []
    for question in questions:
        result = ask(question, top_k, allowed, not no_dedupe)
        if not result.searched:
            films = len(opened.catalogue.films())
            say(f"note: no film of {index} is searched with these conditions; it has {films}")
        _say_notes(result)
        if printer.as_text:
            if len(questions) > 1:
                show(f"{one_line(result.query)}:")
            _print_moments(result)
        printer.print(result.moments)
        moments += result.moments
    return showing.show(moments)


def _add(
    folder: Path,
    places: list[Path],
    model: str,
    checkpoint: Path | None,
    adaptive: bool,
    prune: bool,
    workers: int,
    device: str,
    sources: Any,
    as_json: bool,
) -> int:
    from mesm.pipeline.ground.retriever import MomentRetriever
    from mesm.pipeline.index.build import DecodeSettings, add_files
    from mesm.pipeline.index.store import IndexStore
    from mesm.pipeline.index.video_index import VideoIndex

    settings = DecodeSettings(workers)
    if checkpoint is None:
        opened = VideoIndex.open(folder, model, find_device(device), sources, adaptive)
        report = opened.add(places, prune, settings)
    else:
        retriever = MomentRetriever.from_checkpoint(checkpoint, find_device(device), sources)
        store = IndexStore.create_or_open(folder, retriever.model, retriever.encoders, network=True)
        report = add_files(store, places, retriever.encoders, retriever.device, settings, prune)
    _say_report(report)
    if as_json:
        print_json(
            {
                "encoded": report.encoded,
                "known": report.known,
                "unchanged": report.unchanged,
                "pruned": report.pruned,
                "rows": report.rows,
                "stored": report.stored,
                "gone": [str(path) for path in report.gone],
                "failed": _broken(report.failed),
            }
        )
    return SOME_FAILED if report.failed else OK


def _transcriber(model: str, device: str) -> Transcriber:
    from mesm.extractors.speech import Transcriber

    return Transcriber.from_model(model, find_device(device))


def _transcribe(folder: Path, places: list[Path], transcriber: Transcriber) -> int:
    from mesm.pipeline.index.store import IndexStore
    from mesm.pipeline.index.transcripts import transcribe_films

    opened = IndexStore.open(folder)
    report = transcribe_films(opened, places, transcriber)
    opened.close()
    say(f"{report.films} films heard, {report.cues} cues of words")
    for path, reason in report.failed[:SHOWN]:
        say(f"failed: the sound of {path}: {reason}")
    return SOME_FAILED if report.failed else OK


def _asker(opened: IndexStore, checkpoint: Path | None, device: Any, sources: Any) -> Asker:
    """Return what answers questions to an index: the search without training, a network, or one after the other."""
    from mesm.pipeline.ground.zero_shot import ZeroShot
    from mesm.pipeline.index.network_search import FILMS, look_again, search_by_network
    from mesm.pipeline.index.search import search as search_index

    retriever: Any = None
    if checkpoint is not None:
        from mesm.pipeline.ground.retriever import MomentRetriever

        retriever = MomentRetriever.from_checkpoint(checkpoint, device, sources)
        if opened.facts.network:
            return lambda question, count, allowed, _: search_by_network(opened, retriever, question, count, allowed)
    opened.refuse_network()
    grounder = ZeroShot.from_model(opened.facts.model, device, sources)
    if grounder.untrained:
        say(f"warning: the weights of {grounder.model} are random: this answer is meaningless")

    def ask(question: Question, count: int, allowed: Filter, dedupe: bool) -> SearchResult:
        if retriever is None:
            return search_index(opened, grounder, question, count, allowed, dedupe)
        first = search_index(opened, grounder, question, max(count, 2 * FILMS), allowed, dedupe)
        return look_again(opened, retriever, question, first, count)

    return ask


def _verifying(ask: Asker, model: str, device: Any) -> Asker:
    """Return what also has a model of pictures and text look at what was found."""
    from mesm.extractors.verification import Verifier
    from mesm.pipeline.index.verifying import verified

    verifier = Verifier.from_model(model, device)

    def ask_and_verify(question: Question, count: int, allowed: Filter, dedupe: bool) -> SearchResult:
        result = ask(question, count, allowed, dedupe)
        return replace(result, moments=verified(result.moments, verifier))

    return ask_and_verify


def _say_report(report: IndexReport) -> None:
    say(
        f"{report.encoded} films encoded, {report.known} files of known films, {report.unchanged} unchanged"
        + (f", {report.pruned} forgotten" if report.pruned else "")
    )
    if report.stored < report.rows:
        share = report.stored / report.rows
        say(f"{report.stored} of {report.rows} seconds stored ({share:.0%}); the others look like the one before")
    if report.gone and not report.pruned:
        say(f"note: {len(report.gone)} files of the index are gone from these places; --prune forgets them")
    for one in report.failed[:SHOWN]:
        say(f"failed: {one.path}: {one.reason}: {one.message}")
    if len(report.failed) > SHOWN:
        say(f"failed: {len(report.failed) - SHOWN} more; --stats --json lists them")


def _remove(opened: IndexStore, place: Path) -> int:
    from mesm.pipeline.index.build import remove

    count = remove(opened, place)
    say(f"{place}: {count} files forgotten" if count else f"error: {place} is not in {opened.path}")
    return OK if count else SOME_FAILED


def _print_files(opened: IndexStore, as_json: bool) -> None:
    films = opened.catalogue.films()
    files = [file for file in opened.catalogue.files().values() if file.film_id in films]
    if as_json:
        print_json(
            [
                {"file": str(file.path), "duration_s": round(films[file.film_id].duration_s, 3), "film": file.film_id}
                for file in files
            ]
        )
        return
    for file in files:
        show(f"{films[file.film_id].duration_s:10.1f} s  {one_line(str(file.path))}")


def _print_stats(opened: IndexStore, as_json: bool) -> None:
    counts = opened.catalogue.counts()
    broken = opened.catalogue.failures()
    known = opened.facts
    facts = {"model": known.model, "weights": known.weights, "row_s": known.row_s, "adaptive": known.adaptive}
    if as_json:
        print_json({**facts, **{name: round(value, 3) for name, value in counts.items()}, "broken": _broken(broken)})
        return
    for name, value in {**facts, **counts}.items():
        show(f"{name:12} {value:.2f}" if name == "hours" else f"{name:12} {value}")


def _broken(files: Sequence[BrokenFile]) -> list[dict[str, str]]:
    return [{"file": str(one.path), "reason": one.reason, "message": one.message} for one in files]


def _say_notes(result: SearchResult) -> None:
    if result.words_cut:
        say("note: the query is longer than the model reads; its end was left out")
    if result.moments and not result.confident:
        say("note: no confident match: what fits best fits no better than generic sentences fit something here")


def _print_moments(result: SearchResult) -> None:
    from mesm.pipeline.ground.answer_lines import clock

    for place, moment in enumerate(result.moments):
        kinds = "+".join(dict.fromkeys(_evidence(one) for one in moment.evidence))
        notes = f"  ({', '.join(moment.notes)})" if moment.notes else ""
        more = f"  (+{result.alike[place]} that look the same)" if place in result.alike else ""
        times = f"{clock(moment.start_s)} - {clock(moment.end_s)}"
        show(f"{times}  {moment.score:7.3f}  {kinds:13}  {one_line(str(moment.file))}{notes}{more}")


def _evidence(one: Evidence) -> str:
    return f"{one.kind} ({one.score:.0%})" if one.kind in ("verified", "refuted") else one.kind


def _date(text: str) -> float | None:
    if not text:
        return None
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise PipelineError(f"--since {text}: expected a date as 2026-01-31, or a date and time") from None
