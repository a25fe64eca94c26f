"""Compare the network, its losses, gradients and optimiser steps with numbers of the published code.

A golden file holds a collated batch, the names and shapes of the published parameters, and what the published network
computed in fp32 on a CPU with weights that are a formula of each parameter's name. Dropout is off.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mesm.model.batch import Batch, Targets, WordMask, Words
from mesm.model.layouts import Layout
from mesm.model.network import Network
from mesm.model.networks.mesm import Mesm, MesmOutput
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import TrainConfig
from mesm.pipeline.importers.published_names import our_name
from mesm.pipeline.importers.recognition import Setting, mesm_of, recognise
from mesm.pipeline.train.optimisation import make_optimiser, optimiser_step
from mesm.tools.parity_judging import Scalar, judged, move_by_rounding

OUTPUT_ATOL = 2e-5
LOSS_RTOL = 1e-5
GRADIENT_RTOL = 1e-3
STEP_RTOL = 1e-3

N = TypeVar("N", bound=Network)

_LOSS_NAMES = {
    "span": "loss_span",
    "giou": "loss_giou",
    "label": "loss_label",
    "saliency": "loss_saliency",
    "rebuild_words": "loss_rec_fw",
    "segment_sentence": "loss_rec_ss",
    "span_0": "loss_span_0",
    "giou_0": "loss_giou_0",
    "label_0": "loss_label_0",
}


@dataclass(frozen=True)
class Optimiser:
    """How AdamW was run for the steps of a golden file; MESM's files do not say it."""

    lr: float = 2e-4
    weight_decay: float = 1e-4
    clip: float = 0.1


@dataclass(frozen=True)
class Comparison:
    """One compared quantity: its largest difference, on the scale of its tolerance."""

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance (not a number is not)."""
        return self.difference <= self.tolerance


def is_golden(names: list[str]) -> bool:
    """Whether an archive with these members is a golden file in MESM's layout: queries in groups that share videos."""
    return {"parameter_names", "batch/video_feat", "batch/num_clips"} <= set(names)


def published_shapes(golden: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Published parameter names and shapes, in order."""
    shapes = {}
    for entry in golden["parameter_names"]:
        name, _, shape = str(entry).partition(" ")
        shapes[name] = tuple(int(size) for size in shape.strip("[]").replace(",", " ").split())
    return shapes


def formula_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weight of a published parameter: seeded normal numbers, scaled by what kind of parameter the name says it is."""
    seed = zlib.crc32(name.encode()) % 2**31
    x = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if len(shape) >= 2:
        return (x / np.sqrt(shape[-1])).astype(np.float32)
    if name.endswith("activation.weight"):
        return (0.25 + 0.05 * x).astype(np.float32)
    norms = ("norm.weight", "norm1.weight", "norm2.weight", "norm3.weight", "norm1_1.weight", "norm2_1.weight")
    if name.lower().endswith(norms):
        return (1 + 0.1 * x).astype(np.float32)
    return (0.1 * x).astype(np.float32)


def golden_network(shapes: Mapping[str, tuple[int, ...]], masks: str, setting: Setting) -> Mesm:
    """Build our network with the formula weights, through the published names; dropout off."""
    switches = {"masks": masks, "segment_context": setting.segment_context, "dropout": 0.0, "input_dropout": 0.0}
    model = Mesm(*mesm_of(shapes, **switches))
    state = {}
    for name, shape in shapes.items():
        ours = our_name(name)
        if ours is not None:
            state[ours] = torch.from_numpy(formula_weight(name, shape))
    return load_weights(model, state)


def load_weights(network: N, state: Mapping[str, Tensor]) -> N:
    """Give a network its weights; PipelineError when they are not exactly those that it has."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise PipelineError(f"its parameters are not those of {network.config.name}: {error}") from error
    return network


def golden_batch(golden: Mapping[str, np.ndarray], setting: Setting, training: bool) -> Batch:
    """Turn a published collated batch into ours; videos that are equal within a group are kept once."""
    feature = golden["batch/video_feat"]
    mask = golden["batch/video_mask"].astype(bool)
    counts = golden["batch/num_clips"]
    group = np.repeat(np.arange(len(counts)), counts)
    videos, video_of_query = _unique_videos(feature, group)
    frames = Layout([int(mask[v].sum()) for v in videos], width=feature.shape[1])
    words, words_mask = _golden_words(golden)
    clip_mask = torch.from_numpy(golden["batch/clip_mask"].astype(bool))
    saliency = golden.get("batch/saliency_label", golden["batch/clip_mask"])
    windows, window_counts = _golden_windows(golden, len(feature))
    targets = Targets(
        windows=windows,
        window_counts=window_counts,
        clip_mask=clip_mask,
        saliency=torch.from_numpy(np.asarray(saliency)).float(),
        positive=_optional(golden, "batch/pos_idx") if setting.loss.triplet else None,
        negative=_optional(golden, "batch/neg_idx") if setting.loss.triplet else None,
    )
    word_mask = None
    if training:
        word_mask = WordMask(
            masked=torch.from_numpy(golden["masked_words"].astype(bool)),
            unknown=torch.from_numpy(golden["batch/unknown_mask"].astype(bool)),
            labels=torch.from_numpy(golden["batch/words_label"].astype(np.int64)),
        )
    return Batch(
        video=frames.pack(torch.from_numpy(feature[videos])),
        frames=frames,
        video_of_query=tuple(video_of_query),
        group_of_query=tuple(int(g) for g in group),
        words=Words(words, words_mask),
        negative_query=torch.from_numpy(golden["negative_index"].astype(np.int64)),
        word_mask=word_mask,
        targets=targets,
    )


def _unique_videos(feature: np.ndarray, group: np.ndarray) -> tuple[list[int], list[int]]:
    first: dict[tuple[int, bytes], int] = {}
    videos: list[int] = []
    video_of_query = []
    for n, (rows, g) in enumerate(zip(feature, group, strict=True)):
        key = (int(g), rows.tobytes())
        if key not in first:
            first[key] = len(videos)
            videos.append(n)
        video_of_query.append(first[key])
    return videos, video_of_query


def _golden_words(golden: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Word features, L2-normalised, and their mask; word vectors may stand in `words_id` without a mask."""
    width = golden["batch/unknown_mask"].shape[1]
    vectors = (golden["text_features"] if "text_features" in golden else golden["batch/words_id"])[:, :width]
    words = torch.nn.functional.normalize(torch.from_numpy(vectors).float(), dim=-1, eps=1e-5)
    if "batch/words_mask" in golden:
        mask = torch.from_numpy(golden["batch/words_mask"][:, :width].astype(bool))
    else:
        mask = words.sum(-1) != 0
    return words * mask[..., None], mask


def _golden_windows(golden: Mapping[str, np.ndarray], n: int) -> tuple[Tensor, tuple[int, ...]]:
    """Padded windows (N, M, 2) as fractions of the duration, and how many each query has."""
    if "batch/norm_moment" in golden:
        return torch.from_numpy(golden["batch/norm_moment"]).float()[:, None], (1,) * n
    lists = [torch.from_numpy(golden[f"batch/norm_moment/{i}/moments"]).float().view(-1, 2) for i in range(n)]
    return padded_windows(lists), tuple(len(windows) for windows in lists)


def padded_windows(lists: Sequence[Tensor]) -> Tensor:
    """Windows (M_n, 2) of N queries, padded with the whole video: (N, M, 2)."""
    padded = torch.tensor([0.0, 1.0]).repeat(len(lists), max(len(windows) for windows in lists), 1)
    for row, windows in zip(padded, lists, strict=True):
        row[: len(windows)] = windows
    return padded


def _optional(golden: Mapping[str, np.ndarray], key: str) -> Tensor | None:
    return torch.from_numpy(golden[key].astype(np.int64)) if key in golden else None


def check_file(path: Path) -> tuple[str, list[Comparison]]:
    """Compare everything that a golden file holds; returns the setting's name and the comparisons."""
    archive = np.load(path, allow_pickle=False)
    golden = {name: archive[name] for name in archive.files}
    shapes = published_shapes(golden)
    setting = recognise(shapes, "batch/saliency_label" in golden)
    rows: list[Comparison] = []
    for masks in ("official", "fixed"):
        for mode in ("eval", "train"):
            rows += _check_mode(golden, shapes, setting, masks, mode)
    return setting.name, rows


def _check_mode(
    golden: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], setting: Setting, masks: str, mode: str
) -> Iterator[Comparison]:
    prefix = f"{masks}_masks/{mode}"
    model = golden_network(shapes, masks, setting)
    batch = golden_batch(golden, setting, training=mode == "train")
    model.train(mode == "train")
    output = model(batch)
    losses = model.losses(output, batch, setting.loss)
    rows = [*_compare_outputs(golden, f"{prefix}/outputs", output, batch)]
    for ours, published in _LOSS_NAMES.items():
        key = f"{prefix}/losses/{published}"
        if key in golden:
            rows.append(relative(key, losses[ours].detach(), golden[key], LOSS_RTOL))
    rows.append(relative(f"{prefix}/total", losses["total"].detach(), golden[f"{prefix}/total"], LOSS_RTOL))
    yield from rows
    if mode == "train":
        names = {name: our_name(name) for name in shapes}
        parts = (batch, setting.loss, names, golden, prefix, Optimiser())
        yield from compare_training(lambda: golden_network(shapes, masks, setting), *parts, forgiving=all_hold(rows))


def _compare_outputs(
    golden: Mapping[str, np.ndarray], prefix: str, output: MesmOutput, batch: Batch
) -> Iterator[Comparison]:
    """Compare at valid positions only: what stands at padding has no meaning."""
    frames = batch.frames.mask[list(batch.video_of_query)]
    everywhere = {
        "pred_logits": output.logits[0],
        "pred_spans": output.spans[0],
        "recon_feat": output.segment_token,
        "aux_outputs/0/pred_logits": output.logits[1],
        "aux_outputs/0/pred_spans": output.spans[1],
    }
    padded = {"saliency_scores": output.saliency, "neg_saliency_scores": output.negative_saliency}
    packed = {
        "enhanced_video_feat": (output.enhanced_video, frames),
        "recfw_words_logit": (output.word_logits, batch.words.mask),
    }
    for name, ours in everywhere.items():
        yield absolute(f"{prefix}/{name}", ours, golden.get(f"{prefix}/{name}"))
    for name, ours in padded.items():
        published = golden.get(f"{prefix}/{name}")
        both = None if ours is None else ours[frames], None if published is None else published[frames.numpy()]
        yield absolute(f"{prefix}/{name}", *both)
    for name, (ours, mask) in packed.items():
        published = golden.get(f"{prefix}/{name}")
        if published is not None:
            yield absolute(f"{prefix}/{name}", ours, published[mask.numpy()])


def all_hold(rows: Iterable[Comparison]) -> bool:
    """Whether every quantity is within its tolerance."""
    return all(row.passed for row in rows)


def absolute(name: str, ours: Tensor | None, published: np.ndarray | None) -> Comparison:
    """Compare outputs by their largest difference; what is missing on one side has failed."""
    if ours is None or published is None or tuple(ours.shape) != published.shape:
        return Comparison(name, float("nan"), OUTPUT_ATOL)
    return Comparison(name, float((ours.detach() - torch.from_numpy(published)).abs().max()), OUTPUT_ATOL)


def relative(name: str, ours: Tensor | float, published: np.ndarray | float, tolerance: float) -> Comparison:
    """Compare scalars by their difference relative to the published one."""
    reference = float(published)
    difference = abs(float(ours) - reference)
    return Comparison(name, difference / max(abs(reference), 1e-12) if difference else 0.0, tolerance)


def compare_training(
    build: Callable[[], Network],
    batch: Batch,
    weights: Any,
    names: Mapping[str, str | None],
    golden: Mapping[str, np.ndarray],
    prefix: str,
    optimiser: Optimiser,
    forgiving: bool = True,
) -> Iterator[Comparison]:
    """Compare gradient norms and the steps of AdamW, allowing for what rounding does to them (`parity_judging`).

    build: makes the network anew; names: published parameters and what they are called here; forgiving: whether outputs
    and losses hold. Where they do not, nothing is put down to rounding.
    """

    def numbers(moved_by: int | None) -> list[Scalar]:
        network = build().train()
        if moved_by is not None:
            move_by_rounding(network, moved_by)
        return [
            *_gradients(network, batch, weights, names, golden, prefix),
            *_steps(network, batch, weights, golden, prefix, optimiser),
        ]

    for scalar, difference in judged(numbers(None), numbers, forgiving):
        yield Comparison(scalar.name, difference, scalar.tolerance)


def _gradients(
    network: Network,
    batch: Batch,
    weights: Any,
    names: Mapping[str, str | None],
    golden: Mapping[str, np.ndarray],
    prefix: str,
) -> Iterator[Scalar]:
    """Norms of the gradients, -1 where there is none, and the norm of all of them together."""
    network.losses(network(batch), batch, weights)["total"].backward()
    norms = {name: float(p.grad.norm()) for name, p in network.named_parameters() if p.grad is not None}
    for published, ours in names.items():
        key = f"{prefix}/grad_norm/{published}"
        yield Scalar(key, norms.get(ours, -1.0) if ours is not None else -1.0, float(golden[key]), GRADIENT_RTOL)
    key = f"{prefix}/global_grad_norm"
    yield Scalar(key, math.hypot(*norms.values()), float(golden[key]), GRADIENT_RTOL)


def _steps(
    network: Network, batch: Batch, weights: Any, golden: Mapping[str, np.ndarray], prefix: str, optimiser: Optimiser
) -> Iterator[Scalar]:
    """The loss and the norm of the gradient of each step, as training does it."""
    descent = make_optimiser(network, TrainConfig(lr=optimiser.lr, weight_decay=optimiser.weight_decay))
    for i, (total, norm) in enumerate(golden[f"{prefix}/adamw_total_and_gradnorm"], 1):
        loss = network.losses(network(batch), batch, weights)["total"]
        found = optimiser_step(descent, loss, optimiser.lr, optimiser.clip)
        yield Scalar(f"{prefix}/step {i} total", float(loss.detach()), float(total), STEP_RTOL)
        yield Scalar(f"{prefix}/step {i} gradient norm", float(found), float(norm), STEP_RTOL)
