"""`evaluate`: figures of a run, or of anybody's predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesm.pipeline.commands.options import (
    AnnotationsOption,
    DeviceOption,
    FeaturesOption,
    JsonOption,
    find_device,
)
from mesm.pipeline.commands.output import OK, print_json, print_table
from mesm.pipeline.config.errors import PipelineError


def evaluate(
    run_directory: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Run directory.")] = None,
    annotations: AnnotationsOption = None,
    features: FeaturesOption = Path("features"),
    split: Annotated[
        list[str] | None, typer.Option(help="Split; may be repeated; `validation`: what training held back.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also score answers without the video, and with another one.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure anew what its scores mean, on what training held back.")
    ] = False,
    predictions: Annotated[Path | None, typer.Option(help="Score this file instead of a run.")] = None,
    reader: Annotated[str, typer.Option(help="Annotation format that --predictions belong to.")] = "",
    published: Annotated[bool, typer.Option("--published", help="Round and clamp as the published code.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> int:
    """Print the figures of a run, or of anybody's predictions, beside two baselines.

    --predictions takes the QVHighlights submission format, one JSON object a line.

    Example: mesm-pipeline evaluate runs/a --annotations charades --split test
    """
    from mesm.pipeline.evaluate import stage as evaluate_stage

    if (run_directory is None) == (predictions is None):
        raise PipelineError("give either a run directory or --predictions with --annotations")
    if predictions is not None:
        if calibrate:
            raise PipelineError("--calibrate is for a run directory, not for --predictions")
        results = evaluate_stage.score_file(predictions, annotations, reader, split or [])
    else:
        assert run_directory is not None
        results = evaluate_stage.evaluate(
            run_directory, annotations, features, split or [], find_device(device), published, controls, calibrate
        )
    if as_json:
        print_json({r.split: r.as_record() for r in results})
        return OK
    from mesm.pipeline.evaluate.tables import calibration_table, length_table, metrics_table

    for result in results:
        print_table(metrics_table(result.scores), result.split)
        print_table(length_table(next(iter(result.scores.values()))), "by length of the moment")
        if result.reliability is not None:
            print_table(calibration_table({result.split: result.reliability}), "expected calibration error")
    return OK
