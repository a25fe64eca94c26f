"""`evaluate`: figures of a run, or of anybody's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesm.pipeline.commands.options import (
    AnnotationsOption,
    DeviceOption,
    FeaturesOption,
    JsonOption,
    SetOption,
    WeightsOption,
    find_device,
    weight_sources,
)
from mesm.pipeline.commands.output import OK, print_json, print_table
from mesm.pipeline.config.errors import PipelineError

if TYPE_CHECKING:
    from mesm.pipeline.evaluate.stage import Evaluation
    from mesm.pipeline.evaluate.trained import TrainedModel


def evaluate(
    run_directory: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Run directory.")] = None,
    annotations: AnnotationsOption = None,
    features: FeaturesOption = Path("features"),
    split: Annotated[
        list[str] | None, typer.Option(help="Split; may be repeated; `validation`: what training held back.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also score answers without the video, with others, to others.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure anew what its scores mean, on what training held back.")
    ] = False,
    predictions: Annotated[Path | None, typer.Option(help="Score this file instead of a run.")] = None,
    reader: Annotated[str, typer.Option(help="Annotation format that --predictions belong to.")] = "",
    network: Annotated[str, typer.Option(help="Network without training, instead of a run.")] = "",
    config: Annotated[str, typer.Option("--config", "-c", help="Setting of --network.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder of --network; default: below runs/.")] = None,
    overrides: SetOption = None,
    weights: WeightsOption = None,
    published: Annotated[bool, typer.Option("--published", help="Round and clamp as the published code.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> int:
    """Print the figures of a run, of answers without training, or of anybody's.

    --predictions: in the QVHighlights submission format. --network: zero-shot.

    Example: mesm-pipeline evaluate runs/a --annotations charades --split test
    """
    from mesm.pipeline.evaluate import stage as evaluate_stage

    if [run_directory is not None, predictions is not None, bool(network)].count(True) != 1:
        raise PipelineError(
            "give either a run directory or --predictions with --annotations, or --network with --config"
        )
    if network and calibrate:
        raise PipelineError("--calibrate is for a run directory; a network without training has nothing held back")
    if not network and (config or out or overrides or weights):
        raise PipelineError("--config, --out, --set and --weights go with --network; a run has its own configuration")
    if network:
        model = _without_training(network, config, overrides, out, device, weights)
        results = evaluate_stage.evaluate_model(model, annotations, features, split or [], published, controls)
    elif predictions is not None:
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
    else:
        _print(results)
    return OK


def _without_training(
    network: str,
    config: str,
    overrides: Sequence[str] | None,
    out: Path | None,
    device: str,
    weights: list[str] | None,
) -> TrainedModel:
    from mesm.pipeline.config.load import load_config
    from mesm.pipeline.evaluate.trained import without_training

    settings = load_config(config or "charades-clip-slowfast", overrides or [], network=network)
    folder = out or Path("runs") / f"{settings.name}-{network}"
    return without_training(settings, folder, find_device(device), weight_sources(weights, trust_pickle=False))


def _print(results: Sequence[Evaluation]) -> None:
    from mesm.pipeline.evaluate.tables import calibration_table, length_table, metrics_table

    for result in results:
        print_table(metrics_table(result.scores, result.gap), result.split)
        print_table(length_table(next(iter(result.scores.values()))), "by length of the moment")
        if result.reliability is not None:
            print_table(calibration_table({result.split: result.reliability}), "expected calibration error")
