"""`ground`: the moments of one video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mesm.pipeline.commands.options import (
    DeviceOption,
    JsonOption,
    TrustOption,
    WeightsOption,
    find_device,
    weight_sources,
)
from mesm.pipeline.commands.output import OK, print_json
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say

if TYPE_CHECKING:
    from mesm.pipeline.ground.answers import GroundingResult
    from mesm.pipeline.ground.retriever import MomentRetriever
    from mesm.pipeline.ground.zero_shot import ZeroShot


def ground(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Video file.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The sentence.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Run directory; default: the only one here.")] = None,
    zero_shot: Annotated[bool, typer.Option("--zero-shot", help="Answer without any run.")] = False,
    model: Annotated[str, typer.Option(help="Model without a run: NAME/TAG of open_clip, or of transformers.")] = "",
    decoder: Annotated[str, typer.Option(help="Without a run: procedure that reads spans; default: overlap.")] = "",
    top_k: Annotated[int, typer.Option(min=1, help="Number of answers.")] = 5,
    features: Annotated[Path | None, typer.Option(help="Look for, and keep, features here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the video's frames.")] = None,
    device: DeviceOption = "auto",
    weights: WeightsOption = None,
    trust_pickle: TrustOption = False,
    as_json: JsonOption = False,
) -> int:
    """Find the moment of a video that a sentence describes, by a trained network, or without one if none is here.

    Example: mesm-pipeline ground video.mp4 "a person opens the door"
    """
    if not query.strip():
        raise PipelineError("the query is empty; describe the moment in a sentence")
    forced = zero_shot or bool(model) or bool(decoder)
    if forced and checkpoint is not None:
        raise PipelineError(
            "--checkpoint answers with a run, --zero-shot, --model and --decoder with none; give one of them"
        )
    from mesm.pipeline.ground.retriever import MomentRetriever, find_checkpoint

    place = None if forced else find_checkpoint(checkpoint)
    sources = weight_sources(weights, trust_pickle)
    grounder: MomentRetriever | ZeroShot
    facts: dict[str, Any] = {}
    if place is not None:
        grounder = MomentRetriever.from_checkpoint(place, find_device(device), sources, features)
    else:
        grounder, facts = _without_a_run(model, decoder, device, sources, forced)
    encoded = grounder.encode_video(video, cache=features)
    result = grounder.ground(encoded, query, top_k)
    if result.words_cut:
        say(f"note: the network reads {grounder.max_words} words; the rest of the query was left out")
    facts |= _match(result)
    if html is not None:
        from mesm.pipeline.ground.page import write_grounding_page

        say(f"page: {write_grounding_page(html, encoded, result)}")
    if as_json:
        print_json(
            {
                "video": str(video),
                "query": result.query,
                "duration_s": round(encoded.duration_s, 3),
                "moments": [{"start_s": m.start_s, "end_s": m.end_s, "score": m.score} for m in result.moments],
                **facts,
            }
        )
    else:
        _print_moments(result)
    return OK


def _without_a_run(
    model: str, decoder: str, device: str, sources: Any, forced: bool
) -> tuple[ZeroShot, dict[str, Any]]:
    """Build the grounder that needs no run, say so, and return what the JSON says of it."""
    from mesm.pipeline.ground.zero_shot import DEFAULT_MODEL, ZeroShot, reading_by

    reading = reading_by(decoder)

    name = model or DEFAULT_MODEL
    why = "" if forced else "no --checkpoint was given and no run is here; "
    say(
        f"note: {why}{name} answers without training on moments; a score ranks the moments of this video, "
        "it is no probability"
    )
    grounder = ZeroShot.from_model(name, find_device(device), sources, reading)
    facts: dict[str, Any] = {
        "method": "zero-shot",
        "model": name,
        "untrained": grounder.untrained,
        "fingerprint": grounder.fingerprint,
        "decoder": grounder.spec["decoder"],
        "constants": grounder.spec["constants"],
    }
    if grounder.untrained:
        facts["warning"] = "meaningless: the weights are random"
        say(f"warning: the weights of {name} are random: this answer is meaningless")
    return grounder, facts


def _match(result: GroundingResult) -> dict[str, Any]:
    """Say when the answer is no better than chance; return what the JSON says of it."""
    match = result.match
    if match is None:
        return {}
    if not match.confident:
        say("note: no confident match: the query stands out in this video no more than any sentence does")
    return {"match": {"confident": match.confident, "contrast": match.contrast, "chance": match.chance}}


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
