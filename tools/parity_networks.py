"""Compare a network with numbers of its published code, by a golden file that names the network.

Such a file holds a padded batch in which every query has its own copy of its video,
the names and shapes of the published parameters, whose values are a formula of the name times a factor of the file, and
what the published network computed in fp32 on a CPU without dropout: for the whole batch, for its first three queries,
and for each query alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.model.batch import Batch, Targets, Words
from mesm.model.layouts import Layout
from mesm.model.network import Network
from mesm.model.registry import NETWORKS, build_network, find_network
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.importers.published_names import our_name
from mesm.pipeline.importers.recognition import NETWORK_OF, refuse_unknown
from mesm.tools import parity_elastic, parity_mesm, parity_msat
from mesm.tools.parity_mesm import (
    LOSS_RTOL,
    Comparison,
    Optimiser,
    absolute,
    all_hold,
    compare_training,
    formula_weight,
    is_golden,
    load_weights,
    padded_windows,
    published_shapes,
    relative,
)

Golden = Mapping[str, np.ndarray]

ELASTIC = ("emb", "tea")
"""Networks whose files have another layout."""
LOSSES = ("span", "giou", "label", "saliency")


def network_of_file(golden: Golden) -> str | None:
    """Return the network that a golden file names, None if it names none; PipelineError for an unknown one."""
    if "network" not in golden:
        return None
    name = str(golden["network"])
    try:
        return find_network(name).name
    except ValueError as error:
        raise PipelineError(f"the golden file is of the network {name!r}; {error}") from error


def check_file(path: Path) -> tuple[str, list[Comparison]]:
    """Compare everything that a golden file holds; returns what it is about and the comparisons."""
    with np.load(path, allow_pickle=False) as archive:
        golden = {name: archive[name] for name in archive.files}
    if str(golden.get("network")) in parity_msat.NAMES and "batch/map_gt" in golden:
        return parity_msat.check_golden(golden)
    network = network_of_file(golden)
    if network is None or network not in NETWORK_OF:
        raise PipelineError(f"it names no network whose published parameters are known here ({', '.join(NETWORK_OF)})")
    if network in ELASTIC:
        return parity_elastic.check_file(path)
    if is_golden(list(golden)):
        if network != "mesm":
            raise PipelineError(f"it names {network}, and has the layout of files of mesm (batch/num_clips)")
        return parity_mesm.check_file(path)
    rows: list[Comparison] = []
    for masks in ("official", "fixed"):
        if f"{masks}_masks/eval/total" in golden:
            for mode in ("eval", "train"):
                rows += _check_mode(golden, network, masks, mode)
            rows += _check_part(golden, network, masks, f"first_three/{masks}_masks/eval", range(3))
    for number in range(len(golden["batch/video_feat"])):
        # Alone, no other query can shift a mask.
        rows += _check_part(golden, network, "fixed", f"alone/{number}/eval", range(number, number + 1))
    return f"{network}, {golden['setting']}", rows


def golden_network(golden: Golden, network: str, masks: str) -> Network:
    """Build our network with the formula weights, through the published names; dropout off."""
    shapes = published_shapes(golden)
    refuse_unknown(shapes, network)
    switches: dict[str, Any] = {"dropout": 0.0, "input_dropout": 0.0}
    if hasattr(NETWORKS[network].config_class()(), "masks"):
        switches["masks"] = masks
    config, sizes = NETWORK_OF[network](shapes, **switches)
    factors = json.loads(str(golden["weight_factors"])) if "weight_factors" in golden else {}
    state = {}
    for name, shape in shapes.items():
        ours = our_name(name, network)
        if ours is not None:
            state[ours] = torch.from_numpy(formula_weight(name, shape) * np.float32(factors.get(name, 1.0)))
    model = build_network(config, sizes)
    return load_weights(model, state)


def golden_batch(golden: Golden, chosen: Sequence[int], with_negatives: bool) -> Batch:
    """Turn queries of a published batch into ours; each has its own copy of its video."""
    part = list(chosen)
    feature, mask = golden["batch/video_feat"][part], golden["batch/video_mask"][part].astype(bool)
    text_mask = golden["batch/text_mask"][part].astype(bool)
    width = int(text_mask.sum(1).max())
    words = torch.from_numpy(golden["batch/text_feat"][part][:, :width]).float()
    valid = torch.from_numpy(text_mask[:, :width])
    frames = Layout(mask.sum(1).tolist())
    negative = None
    if with_negatives and "negative_index" in golden:
        negative = torch.from_numpy(np.roll(np.arange(len(part)), -1))
        if len(part) == len(golden["negative_index"]):
            negative = torch.from_numpy(golden["negative_index"].astype(np.int64))
    return Batch(
        video=frames.pack(torch.from_numpy(feature[:, : frames.width]).float()),
        frames=frames,
        video_of_query=tuple(range(len(part))),
        group_of_query=tuple(range(len(part))),
        words=Words(words * valid[..., None], valid, tuple(text_mask.sum(1).tolist())),
        negative_query=negative,
        targets=_targets(golden, part, frames.width) if "batch/pos_idx" in golden else None,
    )


def _targets(golden: Golden, part: list[int], width: int) -> Targets:
    if "batch/norm_moment" in golden:
        lists = [torch.from_numpy(golden["batch/norm_moment"][n]).float().view(-1, 2) for n in part]
    else:
        lists = [torch.from_numpy(golden[f"batch/norm_moment/{n}/moments"]).float().view(-1, 2) for n in part]
    labels = golden.get("batch/saliency_label", golden["batch/clip_mask"])
    return Targets(
        windows=padded_windows(lists),
        window_counts=tuple(map(len, lists)),
        clip_mask=torch.from_numpy(golden["batch/clip_mask"][part][:, :width].astype(bool)),
        saliency=torch.from_numpy(np.asarray(labels[part][:, :width])).float(),
        positive=torch.from_numpy(golden["batch/pos_idx"][part].astype(np.int64)),
        negative=torch.from_numpy(golden["batch/neg_idx"][part].astype(np.int64)),
    )


def _loss_weights(golden: Golden, network: str) -> Any:
    """Return our losses' configuration with the weights of the file."""
    stored = json.loads(str(golden["loss_weights"]))
    return find_network(network).losses_class()(**{name: float(stored[f"loss_{name}"]) for name in LOSSES})


def _check_mode(golden: Golden, network: str, masks: str, mode: str) -> Iterator[Comparison]:
    prefix = f"{masks}_masks/{mode}"
    model, weights = golden_network(golden, network, masks), _loss_weights(golden, network)
    batch = golden_batch(golden, range(len(golden["batch/video_feat"])), with_negatives=True)
    model.train(mode == "train")
    output = model(batch)
    losses = model.losses(output, batch, weights)
    rows = [*_compare_outputs(golden, f"{prefix}/outputs", output, batch)]
    for name, value in losses.items():
        key = f"{prefix}/total" if name == "total" else f"{prefix}/losses/loss_{name}"
        rows.append(relative(key, value.detach(), golden[key], LOSS_RTOL))
    yield from rows
    if mode == "train":
        stored = json.loads(str(golden["optimiser"]))
        names = {name: our_name(name, network) for name in published_shapes(golden)}
        optimiser = Optimiser(stored["lr"], stored["weight_decay"], stored["clip"])
        parts = (batch, weights, names, golden, prefix, optimiser)
        yield from compare_training(lambda: golden_network(golden, network, masks), *parts, forgiving=all_hold(rows))


def _check_part(golden: Golden, network: str, masks: str, prefix: str, chosen: Sequence[int]) -> Iterator[Comparison]:
    if f"{prefix}/outputs/pred_logits" not in golden:
        return
    model = golden_network(golden, network, masks).eval()
    batch = golden_batch(golden, chosen, with_negatives=f"{prefix}/outputs/neg_saliency_scores" in golden)
    with torch.no_grad():
        yield from _compare_outputs(golden, f"{prefix}/outputs", model(batch), batch)


def _compare_outputs(golden: Golden, prefix: str, output: Any, batch: Batch) -> Iterator[Comparison]:
    """Compare at valid positions only: what stands at padding has no meaning."""
    ours = {
        "pred_logits": output.logits[0],
        "pred_spans": output.spans[0],
        "aux_outputs/0/pred_logits": output.logits[1],
        "aux_outputs/0/pred_spans": output.spans[1],
    }
    for name, value in ours.items():
        if f"{prefix}/{name}" in golden:
            yield absolute(f"{prefix}/{name}", value, golden[f"{prefix}/{name}"])
    mask = batch.query_mask()
    saliency = {"saliency_scores": output.saliency, "neg_saliency_scores": getattr(output, "negative_saliency", None)}
    for name, found in saliency.items():
        published = golden.get(f"{prefix}/{name}")
        if published is not None:
            cut = published[:, : mask.shape[1]][mask.numpy()]
            yield absolute(f"{prefix}/{name}", None if found is None else found[mask], cut)
