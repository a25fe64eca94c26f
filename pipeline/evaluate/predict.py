"""From a network and a split to predictions and figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mesm.model.batch import Batch
from mesm.model.network import Answers, Network
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.evaluate.metrics import Scores, evaluate_predictions
from mesm.pipeline.evaluate.postprocessing import windows_in_seconds
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.evaluate.protocols import Protocol, find_protocol
from mesm.pipeline.run.distributed import ALONE, World
from mesm.pipeline.run.precision import half_precision


def protocol_of(config: Config) -> Protocol:
    """Return how this configuration's predictions are post-processed and scored."""
    published, clip_len_s = config.evaluate.published, config.dataset.clip_len
    protocol = find_protocol(config.reader.protocol, published=published, clip_len_s=clip_len_s)
    return replace(protocol, nms_iou=config.evaluate.nms if config.evaluate.nms >= 0 else None)


def answer(network: Network, batch: Batch, config: Config) -> Answers:
    """Read a network's answers to a batch, in the precision and the order that the configuration says."""
    with half_precision(batch.video.device, config.train.precision):
        output = network(batch)
    return network.decode(output.float(), batch, config.ranking)


def host_windows(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return windows (N, K, 2), scores (N, K) and how many of each query's count (N,), None: all, on the host."""
    counts = None if answers.counts is None else answers.counts.cpu().numpy()
    return answers.windows.cpu().numpy(), answers.scores.cpu().numpy(), counts


@torch.inference_mode()
def predict(network: Network, data: MomentData, config: Config, world: World = ALONE) -> list[Prediction]:
    """Answer every query of a split, in the order of its annotations; several processes share the work."""
    protocol, size = protocol_of(config), config.evaluate.batch_groups
    predictions: dict[int, Prediction] = {}
    numbers = world.share(list(range(len(data.groups))) if config.model.reads_in_file_order() else _by_length(data))
    for start in range(0, len(numbers), size):
        indices, groups = data.queries_of(numbers[start : start + size])
        answers = answer(network, data.batch(indices, groups), config)
        durations = np.array([data.duration(i) for i in indices])
        fractions, scores, counts = host_windows(answers)
        windows = windows_in_seconds(fractions, scores, durations, protocol, counts)
        saliency = answers.saliency.cpu().numpy()
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


def evaluate_split(network: Network, data: MomentData, config: Config, world: World = ALONE) -> Scores:
    """Score the answers to a split."""
    return evaluate_predictions(predict(network, data, config, world), data.annotations, protocol_of(config))
