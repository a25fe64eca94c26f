"""Compare with golden numbers what ranking makes of scores, and the figures that are made of that."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from mesm.datasets.annotations.records import Annotation
from mesm.model.networks.msat import MsatConfig
from mesm.model.ranking import best_apart
from mesm.pipeline.evaluate.batch_means import batch_means
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.evaluate.protocols import Protocol
from mesm.tools.parity_mesm import OUTPUT_ATOL, Comparison

Golden = Mapping[str, np.ndarray]

RANKS, RANK_THRESHOLDS = (1, 5), (0.3, 0.5, 0.7)
BATCH_OF_CASES = 3
"""Queries of a batch where invented cases were averaged over batches."""
HUNDREDTH = 0.0051
"""Figures are per cent, rounded to two decimals."""


def scaled(name: str, ours: Tensor | None, published: np.ndarray, tolerance: float = OUTPUT_ATOL) -> Comparison:
    """Compare by the largest difference, as a share of the largest value where that is over 1."""
    if ours is None or tuple(ours.shape) != published.shape:
        return Comparison(name, float("nan"), tolerance)
    expected = torch.from_numpy(np.asarray(published)).double()
    size = max(1.0, float(expected.abs().max()))
    return Comparison(name, float((ours.detach().double() - expected).abs().max()) / size, tolerance)


def check_ranking(golden: Golden, config: MsatConfig) -> Iterator[Comparison]:
    """Compare what ranking makes of the published scores: the 20 best candidates, and the 5 that are kept."""
    total = config.clips + 1
    start, end = torch.cartesian_prod(torch.arange(total), torch.arange(total)).unbind(1)
    candidate = torch.from_numpy(golden["buffers/iou_mask_map"].astype(bool)).flatten()
    cases: list[tuple[str, Tensor, Tensor, np.ndarray]] = []
    if "nms/kept/0" in golden:
        logits = torch.from_numpy(golden["eval/outputs/logits_iou"]).flatten(2)
        moments = torch.stack((start + logits[:, 0], end + logits[:, 1]), dim=-1)
        cases.append(("nms", logits[:, 2].sigmoid(), moments, golden["batch/duration"]))
    if "nms_case/score" in golden:
        moments = torch.from_numpy(golden["nms_case/moment"]).flatten(2).transpose(1, 2)
        score = torch.from_numpy(golden["nms_case/score"]).flatten(1)
        cases.append(("nms_case", score, moments, golden["nms_case/duration"]))
    for name, score, moments, durations in cases:
        possible = candidate & (moments[..., 0] < moments[..., 1])
        for kind, overlap, most in (("ranked20", 2.0, 20), ("kept", config.nms, config.answers)):
            best, _ = best_apart(moments, score, possible, overlap, most)
            chosen = moments.gather(1, best[..., None].expand(-1, -1, 2)).double() / config.clips
            if kind == "kept":
                yield from _check_figures(golden, name, chosen * torch.as_tensor(durations)[:, None, None])
            for query, duration in enumerate(durations):
                yield scaled(
                    f"{name}/{kind}/{query}", chosen[query] * float(duration), golden[f"{name}/{kind}/{query}"]
                )


def _check_figures(golden: Golden, name: str, kept: Tensor) -> Iterator[Comparison]:
    """Compare Rank@n, IoU=m and the mIoU of windows (N, K, 2) in seconds, over queries and, where given, batches."""
    times = golden["batch/times" if name == "nms" else f"{name}/times"]
    truth = [Annotation(i, "v", "", ((float(a), float(b)),), None, None, "") for i, (a, b) in enumerate(times)]
    answers = [Prediction(i, "", "v", np.pad(rows, ((0, 0), (0, 1)))) for i, rows in enumerate(kept.numpy())]
    protocol = Protocol("published", ranks=RANKS, rank_thresholds=RANK_THRESHOLDS)
    for key, size in (("", len(truth)), ("batch_mean_", BATCH_OF_CASES)):
        if f"{name}/{key}rank_table" not in golden:
            continue
        found = batch_means(answers, truth, protocol, size)
        for (row, m), (column, n) in itertools.product(enumerate(RANK_THRESHOLDS), enumerate(RANKS)):
            expected = 100 * float(golden[f"{name}/{key}rank_table"][row, column])
            difference = abs(found[f"Rank{n}@{m:g}"] - expected)
            yield Comparison(f"{name}/{key}rank_table/Rank{n}@{m:g}", difference, HUNDREDTH)
        expected = 100 * float(golden[f"{name}/{key}miou"])
        yield Comparison(f"{name}/{key}miou", abs(found["mIoU"] - expected), HUNDREDTH)
