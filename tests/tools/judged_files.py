"""Golden files in which the gradient of one number is a sum of terms that cancel, off by what rounding does to it.

MESM's are made by its plain form. Those of the baselines are made by our own networks, in small: they show what the
parity tool finds, not who is right.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_files import GOLDEN_SETTINGS, golden_arrays

from mesm.model.batch import Batch
from mesm.model.network import Network
from mesm.model.network_config import Draw, Sizes
from mesm.model.registry import NETWORKS, build_network
from mesm.pipeline.importers.published_names import our_name
from mesm.tools import parity_mesm, parity_networks
from mesm.tools.parity_judging import move_by_rounding
from mesm.tools.synthetic_batches import BatchShape, make_batch

Arrays = dict[str, np.ndarray]

PUBLISHED = Path(__file__).parents[1] / "model" / "networks" / "golden"
MESM_SETTING = "qvhighlights-clip-slowfast"
LR, DECAY, CLIP = 1e-3, 20.0, 0.1
"""So much decay that four steps show it."""
CANCELLING = {
    "mesm": "transformer.encoder.layers.0.activation.weight",
    "qd-detr": "transformer.encoder.layers.0.activation.weight",
    "moment-detr": "class_embed.bias",
}
"""Published names of parameters whose gradient is one number: a slope, or what moves two logits apart."""
FACTORS = {"qd-detr": {}, "moment-detr": {"class_embed.bias": -18.0}}
"""Of published weights, such that the terms cancel for some mixture of the features."""
ROUNDINGS = 200.0
"""The sum that is left, in units of what rounding does to it."""


@dataclass(frozen=True)
class Judged:
    """A golden file, the number in it that rounding has moved, and the masks with which."""

    network: str
    masks: str
    arrays: Arrays

    @property
    def key(self) -> str:
        return f"{self.masks}_masks/train/grad_norm/{CANCELLING[self.network]}"

    def training_rows(self) -> list[parity_mesm.Comparison]:
        """Compare gradients and steps, which are what is judged."""
        _, batch, weights = self.ours()
        names = {name: our_name(name, self.network) for name in parity_mesm.published_shapes(self.arrays)}
        optimiser = parity_mesm.Optimiser()
        if self.network != "mesm":
            optimiser = parity_mesm.Optimiser(LR, DECAY, CLIP)
        parts = (batch, weights, names, self.arrays, f"{self.masks}_masks/train", optimiser)
        return list(parity_mesm.compare_training(lambda: self.ours()[0], *parts))

    def ours(self) -> tuple[Network, Batch, Any]:
        """Our network, its batch and the weights of its losses."""
        if self.network == "mesm":
            shapes = parity_mesm.published_shapes(self.arrays)
            setting = parity_mesm.recognise(shapes, graded_saliency=True)
            network: Network = parity_mesm.golden_network(shapes, self.masks, setting)
            return network.train(), parity_mesm.golden_batch(self.arrays, setting, training=True), setting.loss
        network = parity_networks.golden_network(self.arrays, self.network, self.masks)
        batch = parity_networks.golden_batch(self.arrays, range(len(self.arrays["batch/video_feat"])), True)
        return network.train(), batch, parity_networks._loss_weights(self.arrays, self.network)


def judged_file(network: str) -> Judged:
    """Make the file of a network: features between two draws, where the gradient of the number is nearly nothing."""
    masks = "official" if network == "moment-detr" else "fixed"

    def mixed(share: float, results: bool = False) -> Judged:
        arrays = _mesm_arrays(share, results) if network == "mesm" else _baseline_arrays(network, share, masks, results)
        return Judged(network, masks, arrays)

    model, batch, weights = mixed(0.0).ours()
    end = mixed(1.0).ours()[1].video

    def gradient(share: float, seed: int | None = None) -> float:
        used = model if seed is None else copy.deepcopy(model)
        if seed is not None:
            move_by_rounding(used, seed)
        used.zero_grad()
        mixed_batch = replace(batch, video=torch.lerp(batch.video, end, share))
        used.losses(used(mixed_batch), mixed_batch, weights)["total"].backward()
        found = used.get_parameter(our_name(CANCELLING[network], network) or "").grad
        assert found is not None
        return found.flatten()[0].item()

    low, high = _change_of_sign(gradient)
    noise = float(np.std([gradient(low[0], seed) for seed in range(6)]))
    share = low[0] + ROUNDINGS * noise * (low[0] - high[0]) / (low[1] - high[1])
    ours, others = gradient(share), (gradient(share, seed) for seed in range(100, 140))
    moved = next(x for x in others if abs(x - ours) > 1.5 * parity_mesm.GRADIENT_RTOL * abs(x))
    judged = mixed(share, results=True)
    judged.arrays[judged.key] = judged.arrays[judged.key] * moved / ours
    return judged


def _change_of_sign(gradient: Callable[[float], float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two neighbouring shares and their gradients, between which the gradient changes its sign."""
    grid = [(share, gradient(share)) for share in np.linspace(0, 1, 9)]
    low, high = next((a, b) for a, b in itertools.pairwise(grid) if a[1] * b[1] < 0)
    for _ in range(12):
        middle = (low[0] + high[0]) / 2
        found = (middle, gradient(middle))
        low, high = (found, high) if found[1] * low[1] > 0 else (low, found)
    return low, high


def _mixed(shape: BatchShape, share: float) -> Batch:
    one, other = make_batch(shape, seed=3), make_batch(shape, seed=4)
    return replace(one, video=torch.lerp(one.video, other.video, share))


def _mesm_arrays(share: float, results: bool) -> Arrays:
    return golden_arrays(MESM_SETTING, _mixed(GOLDEN_SETTINGS[MESM_SETTING].shape(), share), results)


def _baseline_arrays(network: str, share: float, masks: str, results: bool) -> Arrays:
    queries = tuple(range(5))
    batch = _mixed(BatchShape(30, 24, 1, (12, 7, 12, 9, 10), queries, queries, words=8, windows=3, levels=12), share)
    arrays = dict(_batch_arrays(batch, Draw.NEXT_QUERY in NETWORKS[network].config_class()().draws()))
    arrays |= {"network": np.array(network), "setting": np.array("in small"), "parameter_names": _names(network)}
    losses = NETWORKS[network].losses_class()()
    stored = {f"loss_{name}": getattr(losses, name) for name in parity_networks.LOSSES}
    arrays["loss_weights"] = np.array(json.dumps(stored))
    arrays["weight_factors"] = np.array(json.dumps(FACTORS[network]))
    arrays["optimiser"] = np.array(json.dumps({"lr": LR, "weight_decay": DECAY, "clip": CLIP}))
    return arrays | (dict(_results(arrays, network, masks)) if results else {})


def _names(network: str) -> np.ndarray:
    """Names of the published parameters, with the shapes that they have in small."""
    config = NETWORKS[network].config_class()(dim=32, heads=4, feed_forward_dim=48)
    small = build_network(config, Sizes(30, 24, 0)).state_dict()
    with np.load(PUBLISHED / f"{network}.npz") as archive:
        entries = [str(entry).partition(" ")[::2] for entry in archive["parameter_names"]]
    ours = {name: our_name(name, network) for name, _ in entries}
    shapes = {name: shape if ours[name] is None else list(small[ours[name]].shape) for name, shape in entries}
    return np.array([f"{name} {shape}" for name, shape in shapes.items()])


def _batch_arrays(batch: Batch, with_negatives: bool) -> Iterator[tuple[str, np.ndarray]]:
    targets = batch.targets
    assert targets is not None
    assert targets.positive is not None
    assert targets.negative is not None
    yield "batch/video_feat", batch.frames.pad(batch.video).numpy()
    yield "batch/video_mask", batch.frames.mask.numpy()
    yield "batch/text_feat", batch.words.vectors.numpy()
    yield "batch/text_mask", batch.words.mask.numpy()
    yield "batch/clip_mask", targets.clip_mask.numpy()
    yield "batch/saliency_label", targets.saliency.numpy()
    yield "batch/pos_idx", targets.positive.numpy()
    yield "batch/neg_idx", targets.negative.numpy()
    for number, (windows, count) in enumerate(zip(targets.windows, targets.window_counts, strict=True)):
        yield f"batch/norm_moment/{number}/moments", windows[:count].numpy()
    if with_negatives:
        yield "negative_index", np.roll(np.arange(batch.count), -1)


def _results(arrays: Arrays, network: str, masks: str) -> Iterator[tuple[str, np.ndarray]]:
    """What training makes of the batch."""
    prefix = f"{masks}_masks/train"
    model = parity_networks.golden_network(arrays, network, masks).train()
    batch = parity_networks.golden_batch(arrays, range(len(arrays["batch/video_feat"])), True)
    weights = parity_networks._loss_weights(arrays, network)
    descent = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    steps = []
    for step in range(4):
        descent.zero_grad()
        losses = model.losses(model(batch), batch, weights)
        losses["total"].backward()
        if step == 0:
            for name, value in losses.items():
                yield (f"{prefix}/total" if name == "total" else f"{prefix}/losses/loss_{name}"), value.detach().numpy()
            for name in parity_mesm.published_shapes(arrays):
                ours = our_name(name, network)
                found = None if ours is None else model.get_parameter(ours).grad
                yield f"{prefix}/grad_norm/{name}", np.float64(-1 if found is None else found.norm())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        steps.append((losses["total"].item(), norm.item()))
        descent.step()
    yield f"{prefix}/global_grad_norm", np.float64(steps[0][1])
    yield f"{prefix}/adamw_total_and_gradnorm", np.array(steps)
