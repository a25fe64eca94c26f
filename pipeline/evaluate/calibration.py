"""Measuring what a run's scores mean, on queries held back from its training, and keeping that with the run."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.evaluate.predict import predict
from mesm.pipeline.evaluate.reliability import Calibration, answers_and_truth, fit
from mesm.pipeline.run.package import CALIBRATION
from mesm.pipeline.run.text_files import publish_facts, read_facts

if TYPE_CHECKING:
    from mesm.pipeline.evaluate.trained import TrainedModel

REMEDY = "make it anew by `mesm-pipeline evaluate RUN --calibrate`, or delete it and do without"
LEAST_QUERIES = 20
"""Fewer say nothing: their standard error of a share is more than a tenth."""


def calibrate(trained: TrainedModel, data: MomentData, split: str) -> Calibration:
    """Measure a run's scores on the queries of `data`, and keep the result in its folder.

    PipelineError when there are too few of them.
    """
    scores, right = answers_and_truth(predict(trained.network, data, trained.config), data.annotations)
    if len(scores) < LEAST_QUERIES:
        raise PipelineError(
            f"{split} has {len(scores)} queries with a moment; scores are calibrated on {LEAST_QUERIES} at least"
        )
    temperature, offset = fit(scores, right)
    found = Calibration(temperature, offset, len(scores), split, _epoch(trained))
    publish_facts(trained.folder / CALIBRATION, dataclasses.asdict(found))
    return found


def read_calibration(trained: TrainedModel) -> Calibration | None:
    """Return what was measured of a run's checkpoint; None when nothing was, or only of an earlier checkpoint."""
    path = trained.folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        content = read_facts(path)
        epoch = content["epoch"]
        found = Calibration(
            float(content["temperature"]),
            float(content["offset"]),
            int(content["queries"]),
            str(content["split"]),
            None if epoch is None else int(epoch),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{path} is no calibration of this program, or is damaged: {error}; {REMEDY}") from error
    if not (found.temperature > 0 and math.isfinite(found.temperature) and math.isfinite(found.offset)):
        raise PipelineError(
            f"{path}: a temperature of {found.temperature} and an offset of {found.offset} cannot be; {REMEDY}"
        )
    return found if found.epoch == _epoch(trained) else None


def _epoch(trained: TrainedModel) -> int | None:
    state = trained.checkpoint.meta.get("state") or {}
    return state.get("best_epoch")
