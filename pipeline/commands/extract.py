"""`extract`: videos and queries to feature shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesm.pipeline.commands.options import (
    AnnotationsOption,
    ConfigOption,
    DeviceOption,
    FeaturesOption,
    JsonOption,
    SetOption,
    TrustOption,
    WeightsOption,
    find_device,
    weight_sources,
)
from mesm.pipeline.commands.output import OK, SOME_FAILED, print_json, show
from mesm.pipeline.run.console import say

if TYPE_CHECKING:
    from mesm.pipeline.extract.stage import ExtractReport


def extract(
    videos: Annotated[
        str | None,
        typer.Option(
            "--videos",
            metavar="FOLDER",
            help="Folder of video files, or an address (s3://, gs://, hf://, https://). Without it: queries only.",
        ),
    ] = None,
    config: ConfigOption = "charades-clip-slowfast",
    features: FeaturesOption = Path("features"),
    annotations: AnnotationsOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes; 0: as configured.")] = 0,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16; empty: as configured.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Only the first videos by name; 0: all.")] = 0,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only every N-th video from the I-th, 0-based.")] = "",
    weights: WeightsOption = None,
    trust_pickle: TrustOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Encode videos, and the annotations' queries, into feature shards.

    Videos that are there already are skipped; run it again after an interruption or for new videos.

    Example: mesm-pipeline extract --videos videos --config charades-clip-slowfast
    """
    from mesm.pipeline.config.load import load_config
    from mesm.pipeline.extract import stage
    from mesm.pipeline.workspace import Workspace

    changes = list(overrides or [])
    if workers:
        changes.append(f"extract.workers={workers}")
    settings = load_config(config, changes)
    if precision:
        count = len(settings.features.video)
        settings = load_config(config, [*changes, *(f"features.video.{i}.precision={precision}" for i in range(count))])
    workspace = Workspace(settings, annotations, features, find_device(device))
    report = stage.extract(workspace, videos, weight_sources(weights, trust_pickle), limit, shard)
    summary = report.videos
    for line in stage.describe_failures(summary.failed, report.missing, features):
        say(f"failed: {line}")
    if as_json:
        print_json(_as_record(report))
    elif videos is None:
        show(f"{report.texts} queries encoded")
    elif not summary.done and not summary.failed:
        show(f"nothing to do: all {summary.skipped} videos are there")
    else:
        show(
            f"{summary.done} videos extracted ({summary.rows} rows, {summary.seconds:.1f} s), "
            f"{summary.skipped} were there, {len(summary.failed)} failed"
        )
    return OK if report.complete else SOME_FAILED


def _as_record(report: ExtractReport) -> dict[str, Any]:
    summary = report.videos
    return {
        "done": summary.done,
        "skipped": summary.skipped,
        "failed": [{"video": f.video_id, "reason": f.reason, "message": f.message} for f in summary.failed],
        "rows": summary.rows,
        "texts": report.texts,
        "missing": report.missing,
        "seconds": round(summary.seconds, 2),
    }
