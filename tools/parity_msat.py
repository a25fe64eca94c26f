"""Compare MSAT, asymmetric co-attention and the contrast (VTC) with numbers of their published codes.

A golden file of these holds raw features as a formula of the videos' names, words as vectors, and what the published
network computed on a padded batch, in fp32 on a CPU without dropout: outputs, losses, gradients, steps of AdamW, the
queue and the slow encoders before and after, and what ranking made of scores. Parts below `VARIANT/fixed` are of a
reference of our own, without the defects of the published code.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mesm.datasets.targets import pool_rows, prepare_video
from mesm.model.batch import Batch, Targets, WordMask, Words
from mesm.model.layouts import Layout
from mesm.model.network_config import Sizes
from mesm.model.networks.msat import Msat, MsatConfig, MsatLosses, position_codes
from mesm.pipeline.config.schema import TrainConfig
from mesm.pipeline.importers.published_names import our_name
from mesm.pipeline.importers.recognition import msat_of, refuse_unknown
from mesm.pipeline.run.networks import network_shapes
from mesm.pipeline.train.optimisation import make_optimiser, optimiser_step
from mesm.tools.parity_grid_ranking import check_ranking, scaled
from mesm.tools.parity_judging import Scalar, judged, move_by_rounding
from mesm.tools.parity_mesm import (
    GRADIENT_RTOL,
    LOSS_RTOL,
    OUTPUT_ATOL,
    STEP_RTOL,
    Comparison,
    all_hold,
    formula_weight,
    load_weights,
    published_shapes,
    relative,
)

Golden = Mapping[str, np.ndarray]

NAMES = ("msat", "acb-vtc")
"""What such files call their network; all are of the network msat."""
LOSSES = {"stage": "stage", "offset": "reg", "overlap": "iou", "words": "text", "contrast": "vtc"}
WEIGHTS = {"stage": "W1", "offset": "W2", "overlap": "W3", "words": "W4", "contrast": "W5"}
MPLUG = "bert_layer.vlbert.mplug."
TEMPERATURE = 0.1
EVERY_POINT = 8
SMALL_GRADIENT = 1e-4
"""Norms of gradients below it are compared by their difference, with this tolerance."""


@dataclass(frozen=True)
class Subject:
    """One network of a golden file."""

    golden: Golden
    variant: str
    """`acb-vtc`, `acb`, `msat-vtc` or `msat`."""
    behaviour: str
    prefix: str

    @cached_property
    def options(self) -> dict[str, Any]:
        """The published configuration."""
        found: dict[str, Any] = json.loads(str(self.golden["options"]))
        return found

    @cached_property
    def config(self) -> tuple[MsatConfig, Sizes]:
        """Network and sizes: those of the file, and for another variant its encoder and contrast."""
        shapes, module = _all_shapes(self.golden), self.options["module"]
        config, sizes = msat_of(
            shapes,
            heads=module["num_attention_heads"],
            dropout=0.0,
            bins=self.options["clips"],
            nms=self.options["test"]["nms"],
            behaviour=self.behaviour,
            vtc_momentum=module.get("momentum", 0.995),
            vtc_alpha=module.get("alpha", 0.3),
            encoder="asymmetric" if self.variant.startswith("acb") else "decoupled",
            encoder_layers=module.get("num_hidden_layers", 6),
            vtc=self.variant.endswith("vtc"),
        )
        return config, sizes

    @cached_property
    def weights(self) -> MsatLosses:
        """Weights of the losses."""
        stored = self.options["loss"]
        found = {name: float(stored[key]) for name, key in WEIGHTS.items() if key in stored}
        peak = 0.7 if self.config[0].clips == 128 else 0.6
        return MsatLosses(peak=peak, **found)

    @cached_property
    def names(self) -> dict[str, str | None]:
        """Published parameters and what they are called here; of another variant those that have gradients."""
        start = f"{self.prefix}train/grad_norm/"
        found = [key.removeprefix(start) for key in self.golden if key.startswith(start)]
        if not self.prefix:
            found = list(published_shapes(self.golden))
        return {name: our_name(name, "msat") for name in found}

    def build(self) -> Msat:
        """Build the network with the formula's weights, and the queue as it was before."""
        return load_weights(Msat(*self.config), self.state)

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Weights and queue by their names here."""
        config, sizes = self.config
        shapes = network_shapes(config, sizes)
        state: dict[str, Tensor] = {}
        for published, ours in self.names.items():
            if ours is not None and ours in shapes:
                is_temperature = published.endswith("mplug.temp")
                weight = (
                    np.array(TEMPERATURE, np.float32) if is_temperature else formula_weight(published, shapes[ours])
                )
                state[ours] = torch.from_numpy(np.asarray(weight))
        if config.vtc:
            if self.behaviour == "fixed":
                for name in ("visual_encoder", "text_encoder", "vision_proj", "text_proj"):
                    for part in ("weight", "bias"):
                        state[f"contrast.slow_{name}_{part}"] = state[f"contrast.{name}.{part}"].clone()
            state |= {f"contrast.{k}": v for k, v in _queue(self.golden, "state/before").items()}
            state["contrast.steps"] = torch.tensor(0)
        return state

    @cached_property
    def batch(self) -> Batch:
        """The batch, with targets and hidden words."""
        return golden_batch(self.golden, self.options["clips"])


def check_golden(golden: Golden) -> tuple[str, list[Comparison]]:
    """Compare everything that a golden file holds; returns what it is about and the comparisons."""
    name = str(golden["network"])
    refuse_unknown(published_shapes(golden), "msat")
    own = Subject(golden, name, "official", "")
    rows = [*_check_inputs(golden, own), *_check_subject(own)]
    for variant in ("acb-vtc", "acb", "msat-vtc", "msat"):
        if f"{variant}/fixed/train/total" in golden:
            rows += _check_subject(Subject(golden, variant, "fixed", f"{variant}/fixed/"))
    return f"{name}, {golden['setting']}", [*rows, *check_ranking(golden, own.config[0])]


def _all_shapes(golden: Golden) -> dict[str, tuple[int, ...]]:
    return published_shapes(golden) | published_shapes({"parameter_names": golden["buffer_names"]})


def raw_features(video: str, rows: int, width: int) -> np.ndarray:
    """Return the features (rows, width) of a golden file's video."""
    random = np.random.RandomState(zlib.crc32(f"feature/{video}".encode()) % 2**31)
    return np.maximum(random.standard_normal((rows, width)).astype(np.float32), 0)


def golden_batch(golden: Golden, bins: int) -> Batch:
    """Build the batch from raw features, and words and moments as the file has them."""
    rows = dict(zip(golden["features/video_ids"].tolist(), golden["features/rows"].tolist(), strict=True))
    width = int(golden["batch/vis_input_shape"][2])
    videos = list(dict.fromkeys(golden["batch/video"].tolist()))
    frames = [prepare_video([raw_features(video, rows[video], width)], bins) for video in videos]
    words, mask = torch.from_numpy(golden["batch/word_vectors"]), golden["batch/txt_mask"].astype(bool)
    count, wide = mask.shape
    clips = golden["batch/map_gt"].shape[2] - 1
    windows = torch.from_numpy(golden["batch/gt_times"]).float()[:, None] / clips
    empty = torch.zeros(count, 1)
    return Batch(
        video=torch.from_numpy(np.concatenate(frames)),
        frames=Layout([len(video) for video in frames]),
        video_of_query=tuple(videos.index(video) for video in golden["batch/video"].tolist()),
        group_of_query=tuple(range(count)),
        words=Words(words, torch.from_numpy(mask), tuple(mask.sum(1).tolist())),
        word_mask=WordMask(
            torch.from_numpy(golden["batch/word_mask"].astype(bool)),
            torch.zeros(count, wide, dtype=torch.bool),
            torch.from_numpy(golden["batch/word_label"].astype(np.int64)),
        ),
        targets=Targets(windows, (1,) * count, empty.bool(), empty, None, None),
        query_ids=torch.from_numpy(golden["batch/anno_idx"].astype(np.int64)),
    )


def _queue(golden: Golden, prefix: str) -> dict[str, Tensor]:
    """Return the queue as it is called and laid out here."""
    found = {
        "video_queue": torch.from_numpy(golden[f"{prefix}/image_queue"].T.copy()),
        "text_queue": torch.from_numpy(golden[f"{prefix}/text_queue"].T.copy()),
    }
    return found | _places(golden, prefix)


def _places(golden: Golden, prefix: str) -> dict[str, Tensor]:
    return {
        "queued": torch.from_numpy(golden[f"{prefix}/idx_queue"].astype(np.int64).reshape(-1)),
        "pointer": torch.tensor(int(golden[f"{prefix}/queue_ptr"][0])),
    }


def _check_inputs(golden: Golden, subject: Subject) -> Iterator[Comparison]:
    """Compare bins, targets, candidates and codes of positions."""
    config, batch, bins = subject.config[0], subject.batch, subject.options["clips"]
    starts = np.cumsum([0, *batch.frames.lengths])
    pooled = np.stack(
        [pool_rows(batch.video[starts[v] : starts[v + 1], :-2].numpy(), bins) for v in batch.video_of_query]
    )
    yield scaled(
        "batch/vis_input_every", torch.from_numpy(pooled[:, ::17, ::61].copy()), golden["batch/vis_input_every"]
    )
    for number, total in enumerate(golden["batch/vis_input_sum"]):
        yield relative(f"batch/vis_input_sum/{number}", float(pooled[number].sum(dtype=np.float64)), total, LOSS_RTOL)
    network = subject.build()
    windows, stages, _ = network._targets(batch, subject.weights.peak)
    place = torch.arange(config.clips + 1)
    offsets = (windows[:, 0, :, None] - place).float()
    yield scaled("batch/map_gt", torch.cat((stages, offsets), dim=1), golden["batch/map_gt"])
    grid = torch.zeros(config.clips + 1, config.clips + 1)
    grid[network.grid.starts, network.grid.ends] = 1
    yield scaled("buffers/iou_mask_map", grid, golden["buffers/iou_mask_map"], 0.0)
    table = position_codes(config.positions, config.positions, config.dim)
    every = golden["buffers/pos_table_every"]
    steps = [math.ceil(size / count) for size, count in zip(table.shape, every.shape, strict=True)]
    yield scaled("buffers/pos_table_every", table[:: steps[0], :: steps[1]], every)


def _check_subject(subject: Subject) -> list[Comparison]:
    rows: list[Comparison] = []
    for mode in ("eval", "train"):
        if f"{subject.prefix}{mode}/total" in subject.golden:
            rows += _check_mode(subject, mode)
    if f"{subject.prefix}train/adamw_total_and_gradnorm" in subject.golden:
        rows += _check_training(subject, all_hold(rows))
    return rows


def _check_mode(subject: Subject, mode: str) -> Iterator[Comparison]:
    golden, prefix, batch = subject.golden, f"{subject.prefix}{mode}", subject.batch
    network = subject.build().train(mode == "train")
    with torch.no_grad():
        for name, ours in _outputs(network, batch).items():
            published = golden.get(f"{prefix}/outputs/{name}")
            if published is not None:
                if name in ("logits_text", "hidden_text", "embedded_text"):
                    # What stands at padding has no meaning.
                    valid = batch.words.mask
                    ours, published = ours[valid], published[valid.numpy()]
                yield scaled(f"{prefix}/outputs/{name}", ours, published)
        losses = network.losses(network(batch), batch, subject.weights)
    for name, key in {**{n: f"losses/loss_{k}" for n, k in LOSSES.items()}, "total": "total"}.items():
        if f"{prefix}/{key}" in golden:
            yield relative(f"{prefix}/{key}", losses.get(name, torch.zeros(())), golden[f"{prefix}/{key}"], LOSS_RTOL)


def _outputs(network: Msat, batch: Batch) -> dict[str, Tensor]:
    """Return outputs by their published names, of all cells and all words."""
    points, words = network.embed(batch)
    found = {"embedded_visual": points[:, ::EVERY_POINT], "embedded_text": words}
    if network.contrast is not None:
        points, words = network.contrast.visual_encoder(points), network.contrast.text_encoder(words)
    layout, lying = batch.plan.words, network._lying(batch)
    count, total, dim = points.shape
    points, packed = network.encoder(points.flatten(0, 1), layout.pack(words), lying.both, True)
    points = points.view(count, total, dim)
    found |= {"hidden_visual": points[:, ::EVERY_POINT], "hidden_text": layout.pad(packed)}
    found["logits_text"] = layout.pad(network.word_head(packed))
    parts = network.stages(points)
    found["logits_visual"] = network.stage_logits(parts)
    index = torch.cartesian_prod(*(torch.arange(size) for size in (count, total, total))).unbind(1)
    grid = network.grid.project(parts[0], parts[2], parts[1])
    found["logits_iou"] = network.grid.cells(grid, *index).view(count, total, total, 3).permute(0, 3, 1, 2)
    # What small files hold of it.
    found["logits_iou_every"] = found["logits_iou"][:, :, ::EVERY_POINT, ::EVERY_POINT]
    return found


def _check_training(subject: Subject, forgiving: bool) -> Iterator[Comparison]:
    golden, prefix = subject.golden, subject.prefix
    plain = _Training(subject, None)
    for scalar, difference in judged(plain.scalars, lambda seed: _Training(subject, seed).scalars, forgiving):
        yield Comparison(scalar.name, difference, scalar.tolerance)
    yield from plain.small
    yield from plain.states
    for name in ("final_mlp_s.3.weight", "final_mlp_3.3.weight"):
        key = f"{prefix}train/after3/bert_layer.{name}"
        if key in golden:
            yield scaled(key, plain.after_three[f"bert_layer.{name}"], golden[key], STEP_RTOL)


class _Training:
    """Four forwards and three steps of AdamW, as the golden file has them."""

    def __init__(self, subject: Subject, moved_by: int | None) -> None:
        self.subject, self.golden, self.prefix = subject, subject.golden, subject.prefix
        self.scalars: list[Scalar] = []
        self.small: list[Comparison] = []
        self.states: list[Comparison] = []
        self.after_three: dict[str, Tensor] = {}
        self.network = subject.build().train()
        if moved_by is not None:
            move_by_rounding(self.network, moved_by)
        self._run()

    def _run(self) -> None:
        stored, batch = self.subject.options["train"], self.subject.batch
        descent = make_optimiser(self.network, TrainConfig(lr=stored["lr"], weight_decay=stored["weight_decay"]))
        steps = self.golden[f"{self.prefix}train/adamw_total_and_gradnorm"]
        for number, (total, norm) in enumerate(steps):
            losses = self.network.losses(self.network(batch), batch, self.subject.weights)
            if number == len(steps) - 1:
                names = {name: ours for name, ours in self.subject.names.items() if ours is not None}
                state = self.network.state_dict()
                self.after_three = {name: state[ours].clone() for name, ours in names.items() if ours in state}
            found = optimiser_step(descent, losses["total"], stored["lr"], float(stored["clip"]))
            if number == 0:
                self._gradients(float(found))
                self._compare_state("state/after1", LOSS_RTOL)
            key = f"{self.prefix}train/step {number + 1}"
            self.scalars.append(Scalar(f"{key} total", losses["total"].item(), float(total), STEP_RTOL))
            self.scalars.append(Scalar(f"{key} gradient norm", float(found), float(norm), STEP_RTOL))
            if f"{self.prefix}train/step_vtc/{number}" in self.golden:
                contrast = losses.get("contrast", torch.zeros(())).item()
                published = float(self.golden[f"{self.prefix}train/step_vtc/{number}"])
                self.scalars.append(Scalar(f"{key} contrast", contrast, published, STEP_RTOL))
        self._compare_state("state/after4", STEP_RTOL)

    def _gradients(self, clipped_from: float) -> None:
        """Norms of the gradients, which clipping has made smaller by one factor; -1 where there is none."""
        factor = max(1.0, clipped_from / float(self.subject.options["train"]["clip"]))
        norms = {n: factor * float(p.grad.norm()) for n, p in self.network.named_parameters() if p.grad is not None}
        for published, ours in self.subject.names.items():
            key = f"{self.prefix}train/grad_norm/{published}"
            expected, found = float(self.golden[key]), -1.0 if ours is None else norms.get(ours, -1.0)
            if 0 <= expected < SMALL_GRADIENT:
                self.small.append(Comparison(key, abs(found - expected), SMALL_GRADIENT))
            else:
                self.scalars.append(Scalar(key, found, expected, GRADIENT_RTOL))
        key = f"{self.prefix}train/global_grad_norm"
        self.scalars.append(Scalar(key, clipped_from, float(self.golden[key]), GRADIENT_RTOL))

    def _compare_state(self, name: str, tolerance: float) -> None:
        """Compare queue and slow encoders."""
        key, contrast = f"{self.prefix}{name}", self.network.contrast
        if contrast is None or f"{key}/idx_queue" not in self.golden:
            return
        for part, place in _places(self.golden, key).items():
            same = torch.equal(getattr(contrast, part), place)
            self.states.append(Comparison(f"{key}/{part}", 0.0 if same else float("nan"), 0.0))
        for ours, published in (("video_queue", "image_queue"), ("text_queue", "text_queue")):
            if f"{key}/{published}" in self.golden:
                held, expected = getattr(contrast, ours).T, self.golden[f"{key}/{published}"]
                if expected.shape[1] < held.shape[1]:
                    held = held[:, self._entered(expected.shape[1])]
                self.states.append(scaled(f"{key}/{published}", held, expected, max(tolerance, OUTPUT_ATOL)))
        for member in self.golden:
            if member.startswith(f"{key}/{MPLUG}") and member.endswith("/norm"):
                slow = our_name(member.removeprefix(f"{key}/").removesuffix("/norm"), "msat")
                norm = self.network.state_dict()[str(slow)].norm()
                self.states.append(relative(member, norm, self.golden[member], LOSS_RTOL))

    def _entered(self, count: int) -> list[int]:
        """Columns that the four forwards wrote, from the pointer on, and those behind them up to `count`."""
        pointer, size = int(self.golden["state/before/queue_ptr"][0]), len(self.golden["state/before/idx_queue"][0])
        return [(pointer + place) % size for place in range(count)]
