"""`narrate`: what videos show, second by second, in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesm.pipeline.commands.options import (
    AnnotationsOption,
    ConfigOption,
    DeviceOption,
    FeaturesOption,
    SetOption,
    find_device,
)
from mesm.pipeline.commands.output import OK, SOME_FAILED, show
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say

if TYPE_CHECKING:
    from mesm.pipeline.config.schema import Config
    from mesm.pipeline.extract.videos import VideoItem

_INTERVAL_S = 1.0


def narrate(
    video: Annotated[Path | None, typer.Argument(help="One video file.")] = None,
    videos: Annotated[Path | None, typer.Option("--videos", help="Folder of video files.")] = None,
    narrator: Annotated[str, typer.Option(help="Narrator, folder of a model, or its name on the hub.")] = "",
    prompt: Annotated[str | None, typer.Option(help="What is asked for each frame; default: the narrator's.")] = None,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between frames.")] = _INTERVAL_S,
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer.")] = 96,
    batch_size: Annotated[int, typer.Option(min=1, help="Frames at a time.")] = 8,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16; empty: bf16 on a GPU.")] = "",
    config: ConfigOption = "charades-mini-tea",
    features: FeaturesOption = Path("features"),
    annotations: AnnotationsOption = None,
    device: DeviceOption = "auto",
    source: Annotated[Path | None, typer.Option("--import", help="JSON lines of somebody's narrations.")] = None,
    oracle: Annotated[Path | None, typer.Option(help="Charades_v1_*.csv, whose actions are told: truth.")] = None,
    classes: Annotated[Path | None, typer.Option(help="Names of its classes: Charades_v1_classes.txt.")] = None,
    lenient: Annotated[bool, typer.Option("--lenient", help="Leave out lines that do not fit.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write JSON lines.")] = None,
    srt: Annotated[Path | None, typer.Option(metavar="FILE", help="Write subtitles of one video.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how much there is to do, and how long.")] = False,
    overrides: SetOption = None,
) -> int:
    """Let a narrator say what videos show, a passage a second, or import what others said.

    Videos that are narrated are skipped; run it again after an interruption.

    Example: mesm-pipeline narrate --videos videos --narrator smolvlm-256m
    """
    from mesm.pipeline.config.load import load_config

    given = [name for name, value in (("--import", source), ("--oracle", oracle)) if value is not None]
    if len(given) + (video is not None) + (videos is not None) != 1:
        raise PipelineError("give one of: a video, --videos FOLDER, --import FILE, --oracle CSV")
    settings = load_config(config, list(overrides or []))
    if source is not None or oracle is not None:
        show(_import(source, oracle, classes, features, annotations, settings, lenient))
        return OK
    from mesm.pipeline.extract.videos import VideoItem, collect_videos

    items = [VideoItem(video.stem, video)] if video is not None else collect_videos(videos or Path())
    if srt is not None and len(items) != 1:
        raise PipelineError(f"--srt takes one video, found {len(items)}; use --json for several")
    chosen = find_device(device)
    asked = {"prompt": prompt, "max_tokens": max_tokens, "precision": precision or _precision(chosen)}
    return _narrate(items, narrator, asked, chosen, features, interval, batch_size, settings, json_file, srt, dry_run)


def _narrate(
    items: list[VideoItem],
    narrator: str,
    asked: dict[str, Any],
    device: Any,
    features: Path,
    interval_s: float,
    batch_size: int,
    settings: Config,
    json_file: Path | None,
    srt: Path | None,
    dry_run: bool,
) -> int:
    from mesm.extractors.narrators.mllm import load_narrator
    from mesm.extractors.narrators.registry import DEFAULT
    from mesm.pipeline.extract import narrate as stage
    from mesm.pipeline.extract.narration_files import passages_of, write_lines, write_subtitles
    from mesm.pipeline.run.console import ProgressBar

    speaker = load_narrator(narrator or DEFAULT, device, **asked)
    found = stage.estimate(items, speaker, features, interval_s, batch_size, sample=dry_run)
    if dry_run:
        for line in found.unreadable:
            say(f"cannot be read: {line}")
        show(f"{found.videos} videos, {found.passages} passages, about {found.seconds / 60:.1f} minutes")
        return SOME_FAILED if found.unreadable else OK
    with ProgressBar("passages", found.passages) as bar:

        def progress(passages: int, settled: int, total: int) -> None:
            bar.update(passages, f"{settled}/{total} videos")

        report = stage.narrate_videos(
            items, speaker, features, interval_s, batch_size, settings.extract, device, progress
        )
    for failure in report.videos.failed:
        say(f"failed: {failure.video_id}: {failure.message}")
    names = [item.video_id for item in items]
    if json_file is not None:
        say(f"{write_lines(json_file, report.folder, names)} passages in {json_file}")
    if srt is not None and names[0] in report.folder:
        duration = report.folder.record(names[0]).duration_s or 0.0
        say(f"{write_subtitles(srt, passages_of(report.folder, names)[names[0]], duration)} subtitles in {srt}")
    show(
        f"{report.passages} passages ({report.empty} empty) of {report.videos.done} videos in {report.folder.path}, "
        f"{report.videos.skipped} videos were there, {len(report.videos.failed)} failed"
    )
    return SOME_FAILED if report.videos.failed else OK


def _precision(device: Any) -> str:
    return "bf16" if device.type == "cuda" else "fp32"


def _import(
    source: Path | None,
    oracle: Path | None,
    classes: Path | None,
    features: Path,
    annotations: Path | None,
    settings: Config,
    lenient: bool,
) -> Path:
    """Import narrations, and return their folder."""
    from mesm.pipeline.data.splits import read_all_splits
    from mesm.pipeline.importers.narrations import ORACLE, import_narrations, oracle_narrations, store

    if oracle is not None:
        if classes is None:
            raise PipelineError("--oracle needs --classes, the names of Charades' classes")
        say("note: the oracle tells the truth of a sister task; figures with it are an upper bound, no result")
        return store(oracle_narrations(oracle, classes), features, {"narrator": ORACLE}).path
    durations: dict[str, float] = {}
    if annotations is not None:
        queries = read_all_splits(settings, annotations)
        durations = {query.video_id: query.duration_s or float("inf") for query in queries}
    assert source is not None
    return import_narrations(source, features, durations, lenient).path
