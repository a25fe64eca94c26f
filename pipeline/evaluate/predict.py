"""From a network and a split to predictions and figures."""

from __future__ import annotations

import numpy as np
import torch

from mesm.model import Mesm, span_scores
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.evaluate.metrics import Scores, evaluate_predictions
from mesm.pipeline.evaluate.postprocessing import windows_from_spans
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.evaluate.protocol_of import protocol_of
from mesm.pipeline.run.distributed import ALONE, World
from mesm.pipeline.run.precision import half_precision


@torch.inference_mode()
def predict(model: Mesm, data: MomentData, config: Config, world: World = ALONE) -> list[Prediction]:
    """Answer every query of a split, in the order of its annotations; several processes share the work."""
    protocol, size = protocol_of(config), config.evaluate.batch_groups
    device = next(model.parameters()).device
    predictions: dict[int, Prediction] = {}
    numbers = world.share(_by_length(data))
    for start in range(0, len(numbers), size):
        indices, groups = data.queries_of(numbers[start : start + size])
        with half_precision(device, config.train.precision):
            batch = data.batch(indices, groups)
            output = model(batch).float()
        scores = span_scores(output, batch, config.ranks_by_frames).cpu().numpy()
        spans, saliency = output.spans[0].cpu().numpy(), output.saliency.cpu().numpy()
        durations = np.array([data.duration(i) for i in indices])
        windows = windows_from_spans(spans, scores, durations, protocol)
        for row, i in enumerate(indices):
            annotation = data.annotations[i]
            rows = data.frames.lengths[annotation.video_id]
            predictions[i] = Prediction(
                annotation.query_id,
                annotation.query,
                annotation.video_id,
                windows[row],
                saliency[row, :rows].astype(np.float64),
            )
    for others in world.gather_objects(predictions):
        predictions |= others
    return [predictions[i] for i in range(len(data))]


def _by_length(data: MomentData) -> list[int]:
    """Group numbers, videos of similar length together: no answer depends on it, and less padding is computed.

    The published QVHighlights mode reads all clips of a group, which stay in one batch this way, too.
    """
    lengths = data.lengths_of_groups()
    return sorted(range(len(lengths)), key=lambda number: lengths[number])


def evaluate_split(model: Mesm, data: MomentData, config: Config, world: World = ALONE) -> Scores:
    """Score the answers to a split."""
    return evaluate_predictions(predict(model, data, config, world), data.annotations, protocol_of(config))
