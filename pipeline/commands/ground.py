"""`ground`: the moments of one video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def ground(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Video file.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The sentence.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Run directory; default: the only one here.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Number of answers.")] = 5,
    features: Annotated[Path | None, typer.Option(help="Look for, and keep, features here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the video's frames.")] = None,
    device: DeviceOption = "auto",
    weights: WeightsOption = None,
    trust_pickle: TrustOption = False,
    as_json: JsonOption = False,
) -> int:
    """Find the moment of a video that a sentence describes.

    Example: mesm-pipeline ground video.mp4 "a person opens the door" --checkpoint runs/a
    """
    if not query.strip():
        raise PipelineError("the query is empty; describe the moment in a sentence")
    from mesm.pipeline.ground import retriever as grounding

    place = grounding.find_checkpoint(checkpoint)
    sources = weight_sources(weights, trust_pickle)
    retriever = grounding.MomentRetriever.from_checkpoint(place, find_device(device), sources, features)
    encoded = retriever.encode_video(video, cache=features)
    result = retriever.ground(encoded, query, top_k)
    if result.words_cut:
        say(f"note: the network reads {retriever.config.dataset.max_words} words; the rest of the query was left out")
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
            }
        )
        return OK
    from rich.table import Table

    table = Table("start", "end", "score", box=None, header_style="bold")
    for moment in result.moments:
        table.add_row(_clock(moment.start_s), _clock(moment.end_s), f"{moment.score:.3f}")
    Console(highlight=False).print(table)
    return OK


def _clock(seconds: float) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{int(hours)}:{int(minutes):02d}:{rest:05.2f}" if hours else f"{int(minutes)}:{rest:05.2f}"
