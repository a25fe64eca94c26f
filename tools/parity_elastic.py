"""Compare EMB and TEA with golden numbers: of EMB's published code, and of a plain reading of TEA's paper.

A file of a network holds a padded batch, the names and shapes of the parameters, whose values are a formula of their
names, and outputs, losses at three thresholds, norms of gradients, steps of the published optimiser and answers, for
each behaviour (EMB) or variant (TEA). The file of post-processing holds labels, answers, and videos cut to 128 rows.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.narration import passages_to_rows
from mesm.datasets.targets import pool_rows
from mesm.model.batch import Batch, Targets, Words
from mesm.model.elastic import best_pairs, rows_of_windows, threshold_of
from mesm.model.layers.guided import HIDDEN
from mesm.model.layouts import Layout
from mesm.model.networks.emb import Emb, EmbLosses, EmbOutput
from mesm.model.registry import build_network
from mesm.pipeline.config.schema import TrainConfig
from mesm.pipeline.evaluate.metrics import evaluate_predictions
from mesm.pipeline.evaluate.postprocessing import temporal_iou
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.evaluate.protocols import find_protocol
from mesm.pipeline.importers.published_names import our_name
from mesm.pipeline.importers.recognition import NETWORK_OF, refuse_unknown
from mesm.pipeline.train.optimisation import learning_rate, make_optimiser, optimiser_step
from mesm.tools.parity_judging import Scalar, judged, move_by_rounding
from mesm.tools.parity_mesm import (
    GRADIENT_RTOL,
    LOSS_RTOL,
    OUTPUT_ATOL,
    STEP_RTOL,
    Comparison,
    absolute,
    all_hold,
    load_weights,
    published_shapes,
    relative,
)

Golden = Mapping[str, np.ndarray]

THRESHOLDS = ("0.5", "0.75", "1.0")
OF_STEPS = 0.75
"""Threshold of gradients and steps."""
STEPS = TrainConfig(epochs=1, lr=5e-4, weight_decay=0.01, optimiser="adamw-decay-after", schedule="linear")
SCHEDULE, CLIP = 10_000, 1.0
NORMS = ("norm.weight", "norm1.weight", "norm2.weight")
SETTINGS = {"charades": "charades-i3d-glove"}
"""What a file calls a setting, and its name here."""
SEEN = HIDDEN / 10
"""Numbers below it stand at padding."""


def is_postprocessing(names: list[str]) -> bool:
    """Whether an archive with these members is the file of labels, answers and cutting."""
    return "labels/start_end_rows_duration" in names


def check_file(path: Path) -> tuple[str, list[Comparison]]:
    """Compare everything that a golden file of EMB, of TEA, or of what is done around them holds."""
    with np.load(path, allow_pickle=False) as archive:
        golden = {name: archive[name] for name in archive.files}
    if is_postprocessing(list(golden)):
        return "labels, answers and cutting of emb", list(_check_postprocessing(golden))
    network, rows = str(golden["network"]), list[Comparison]()
    for behaviour in ("official", "fixed"):
        if f"{behaviour}/answer" in golden:
            rows += _check_behaviour(golden, network, behaviour)
        rows += _check_alone(golden, network, behaviour)
    for variant in sorted(name.removesuffix("/options") for name in golden if name.endswith("/options")):
        rows += _check_variant(golden, network, variant)
    if "narrative/features" in golden:
        rows.append(_check_narrative(golden))
    if "threshold_by_epoch" in golden:
        epochs = len(golden["threshold_by_epoch"])
        ours = [threshold_of(torch.tensor(e / epochs, dtype=torch.float64), torch.device("cpu")) for e in range(epochs)]
        rows.append(_distance("threshold_by_epoch", torch.stack(ours).numpy(), golden["threshold_by_epoch"]))
    setting = str(golden.get("setting", "a plain reading of its paper"))
    return f"{network}, {SETTINGS.get(setting, setting)}", rows


def formula_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weight of a parameter: seeded normal numbers, scaled by all but its first axis, or by the kind of vector."""
    x = np.random.RandomState(zlib.crc32(name.encode()) % 2**31).standard_normal(shape).astype(np.float32)
    if len(shape) >= 2:
        return (x / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (1 + 0.1 * x if name.endswith(NORMS) else 0.1 * x).astype(np.float32)


def golden_network(golden: Golden, network: str, names: str, **switches: Any) -> Emb:
    """Build our network with the formula weights, through the published names; dropout off.

    names: which member lists the parameters.
    """
    shapes = published_shapes({"parameter_names": golden[names]})
    refuse_unknown(shapes, network)
    config, sizes = NETWORK_OF[network](shapes, dropout=0.0, **switches)
    model = build_network(config, sizes)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        ours = our_name(name, network)
        if ours is not None:
            value = torch.from_numpy(formula_weight(name, shape))
            state[ours] = value.reshape(expected[ours]) if ours in expected else value
    return cast(Emb, load_weights(model, state))


def golden_batch(golden: Golden, chosen: list[int] | None = None) -> Batch:
    """Turn queries of a published batch, by default all, into ours; each has its own copy of its video."""
    part = list(range(len(golden["batch/video_length"]))) if chosen is None else chosen
    frames = Layout(golden["batch/video_length"][part].tolist())
    ids = golden["batch/word_ids"][part]
    ids = ids[:, : int((ids != 0).sum(1).max())]
    vectors = _vectors(golden)
    valid = torch.from_numpy(ids != 0)
    video = frames.pack(torch.from_numpy(golden["batch/video_feat"][part][:, : frames.width]))
    rows = np.stack([golden[f"batch/{side}_idx"][part] for side in ("start", "end")], axis=1)
    bounds = (rows + np.array([0, 1])) / golden["batch/video_length"][part][:, None]
    nothing = torch.zeros(len(part), frames.width, dtype=torch.bool)
    windows = torch.from_numpy(bounds.astype(np.float32))[:, None]
    narration = None
    if "narrative/features" in golden:
        narration = frames.pack(torch.from_numpy(golden["narrative/features"][part][:, : frames.width]))
    return Batch(
        narration=narration,
        video=torch.cat((video, video.new_zeros(len(video), 2)), dim=1),
        frames=frames,
        video_of_query=tuple(range(len(part))),
        group_of_query=tuple(range(len(part))),
        words=Words(torch.from_numpy(vectors[ids]), valid, tuple(valid.sum(1).tolist())),
        targets=Targets(windows, (1,) * len(part), nothing, nothing.float(), None, None),
    )


def _vectors(golden: Golden) -> np.ndarray:
    """(ids, D) vectors by id: zeros for padding and for unknown words, whose vector the network has."""
    found = golden["word_vectors"]
    return np.concatenate((np.zeros((2, found.shape[1]), np.float32), found))


def _check_behaviour(golden: Golden, network: str, behaviour: str) -> Iterator[Comparison]:
    def build() -> Emb:
        return golden_network(golden, network, "parameter_names", behaviour=behaviour)

    batch, rows = golden_batch(golden), list[Comparison]()
    for mode in ("eval", "train"):
        model = build().train(mode == "train")
        output = model(batch)
        rows += _compare_outputs(golden, f"{behaviour}/{mode}/outputs", output)
        rows += compare_losses(golden, f"{behaviour}/{mode}", model, output, batch)
    rows.append(_same(f"{behaviour}/answer", first_answer(build(), output, batch), golden[f"{behaviour}/answer"]))
    yield from rows
    names = published_shapes(golden)
    prefix = f"{behaviour}/train"
    yield from compare_training(golden, prefix, build, batch, {n: our_name(n, network) for n in names}, all_hold(rows))
    yield from _after_one_step(golden, prefix, build(), batch, network)


def _check_variant(golden: Golden, network: str, variant: str) -> Iterator[Comparison]:
    """Compare one variant of TEA: outputs, losses, answers, gradients and steps."""
    options = json.loads(str(golden[f"{variant}/options"]))
    switches = {"behaviour" if name == "mode" else name: value for name, value in options.items()}

    def build() -> Emb:
        return golden_network(golden, network, f"{variant}/parameter_names", **switches)

    batch, model = golden_batch(golden), build().eval()
    output = model(batch)
    rows = list(_compare_variant_outputs(golden, f"{variant}/outputs", output))
    rows += compare_losses(golden, variant, model, output, batch)
    answers = model.decode(output, batch)
    rows.append(_same(f"{variant}/answer", first_answer(model, output, batch), golden[f"{variant}/answer"][:, :2]))
    share = (1 + options["alpha"]) ** 2 if options["paragraph"] else 1.0
    score = answers.scores[:, 0].detach().numpy() * share
    rows.append(_distance(f"{variant}/answer (product)", score, golden[f"{variant}/answer"][:, 2]))
    yield from rows
    shapes = published_shapes({"parameter_names": golden[f"{variant}/parameter_names"]})
    yield from compare_training(
        golden, variant, build, batch, {n: our_name(n, network) for n in shapes}, all_hold(rows)
    )


def _compare_variant_outputs(golden: Golden, prefix: str, output: EmbOutput) -> Iterator[Comparison]:
    log_start, log_end = output.log_chances()
    found = {"log_start": log_start, "log_end": log_end, "start_score": log_start.exp(), "end_score": log_end.exp()}
    for name in ("highlight", "start_logits", "end_logits"):
        found[name] = getattr(output, name)
        if hasattr(output, f"paragraph_{name}"):
            found[f"paragraph_{name}"] = getattr(output, f"paragraph_{name}")
    for key in golden:
        name = key.removeprefix(f"{prefix}/")
        if key.startswith(f"{prefix}/") and name != "proposal_scores":
            seen = golden[key] > SEEN
            yield absolute(key, found[name][torch.from_numpy(seen)], golden[key][seen])
    mask, scores = output.proposal_mask, output.proposal_scores
    assert mask is not None
    assert scores is not None
    key = f"{prefix}/proposal_scores"
    blocks = int(np.sqrt(golden[key].shape[1]))
    first, last = torch.triu_indices(blocks, blocks).numpy()
    yield absolute(key, scores[mask], golden[key][:, first * blocks + last][mask.numpy()])


def _check_narrative(golden: Golden) -> Comparison:
    """Compare the rows that passages become."""
    vectors = golden["narrative/word_vectors"]
    words = np.split(golden["narrative/passage_words"], np.cumsum(golden["narrative/passage_length"])[:-1])
    rows = np.zeros_like(golden["narrative/features"])
    for video, length in enumerate(golden["batch/video_length"]):
        own = np.flatnonzero(golden["narrative/passage_video"] == video)
        said = [vectors[words[i]] for i in own]
        passages = [part.astype(np.float64).mean(0) if len(part) else None for part in said]
        duration = float(golden["batch/duration"][video])
        told = passages_to_rows(golden["narrative/passage_time"][own], passages, int(length), duration)
        if told is not None:
            rows[video, :length] = told
    return _distance("narrative/features", rows, golden["narrative/features"])


def _check_alone(golden: Golden, network: str, behaviour: str) -> Iterator[Comparison]:
    """Compare the answers to each query by itself, as far as the file has them."""
    found = any(name.startswith(f"{behaviour}/alone/") for name in golden)
    model = golden_network(golden, network, "parameter_names", behaviour=behaviour).eval() if found else None
    for query in range(len(golden["batch/video_length"])):
        prefix = f"{behaviour}/alone/{query}"
        if model is not None and f"{prefix}/highlight" in golden:
            with torch.no_grad():
                yield from _compare_outputs(golden, prefix, model(golden_batch(golden, [query])))


def _compare_outputs(golden: Golden, prefix: str, output: EmbOutput) -> Iterator[Comparison]:
    scores, mask = output.proposal_scores, output.proposal_mask
    assert scores is not None
    assert mask is not None
    assert output.proposal_bounds is not None
    for name in ("highlight", "start_logits", "end_logits"):
        published = golden[f"{prefix}/{name}"]
        seen = published > SEEN
        yield absolute(f"{prefix}/{name}", getattr(output, name)[torch.from_numpy(seen)], published[seen])
    blocks = int(np.sqrt(golden[f"{prefix}/proposal_mask"].shape[1]))
    first, last = torch.triu_indices(blocks, blocks).numpy()
    chosen = golden[f"{prefix}/proposal_mask"][:, first * blocks + last] > 0
    yield _same(f"{prefix}/proposal_mask", mask.numpy(), chosen)
    theirs = golden[f"{prefix}/proposals"][:, first * blocks + last]
    yield _same(f"{prefix}/proposals", output.proposal_bounds.numpy()[chosen], theirs[chosen])
    found = golden[f"{prefix}/proposal_scores"][:, first * blocks + last]
    yield absolute(f"{prefix}/proposal_scores", scores[torch.from_numpy(chosen)], found[chosen])


def compare_losses(
    golden: Golden, prefix: str, model: Emb, output: EmbOutput, batch: Batch, weights: Any = None
) -> Iterator[Comparison]:
    """Compare the losses at every threshold, and which proposals are the pseudo moments."""
    for name in THRESHOLDS:
        threshold = torch.tensor(float(name), dtype=torch.float64)
        losses = model.losses_at(threshold, output, batch, weights or EmbLosses())
        for part, value in losses.items():
            key = f"{prefix}/losses/threshold_{name}/{part}"
            yield relative(key, value.detach(), golden[key], LOSS_RTOL)
        key = f"{prefix}/pseudo/threshold_{name}"
        if key in golden:
            yield _same(key, model.moments(threshold, output, batch)[1].numpy(), golden[key])


def compare_training(
    golden: Golden,
    prefix: str,
    build: Callable[[], Emb],
    batch: Batch,
    names: Mapping[str, str | None],
    forgiving: bool,
) -> Iterator[Comparison]:
    """Compare norms of gradients and the steps of the optimiser, allowing for rounding (`parity_judging`)."""

    def numbers(moved_by: int | None) -> list[Scalar]:
        network = build().train()
        if moved_by is not None:
            move_by_rounding(network, moved_by)
        _loss(network, batch).backward()
        norms = {name: float(p.grad.norm()) for name, p in network.named_parameters() if p.grad is not None}
        found = [_gradient(f"{prefix}/grad_norm/{n}", norms.get(ours or "", -1.0), golden) for n, ours in names.items()]
        network.zero_grad()
        descent = make_optimiser(network, STEPS)
        for step, (total, norm) in enumerate(golden[f"{prefix}/adamw_total_and_gradnorm"]):
            loss = _loss(network, batch)
            ours = optimiser_step(descent, loss, learning_rate(STEPS, step, SCHEDULE), CLIP)
            found.append(Scalar(f"{prefix}/step {step + 1} total", float(loss.detach()), float(total), STEP_RTOL))
            found.append(Scalar(f"{prefix}/step {step + 1} gradient norm", float(ours), float(norm), STEP_RTOL))
        return found

    for scalar, difference in judged(numbers(None), numbers, forgiving):
        yield Comparison(scalar.name, difference, scalar.tolerance)


def _gradient(key: str, norm: float, golden: Golden) -> Scalar:
    """The tolerance is a share of the norm and 1e-6."""
    published = float(golden[key])
    return Scalar(key, norm, published, GRADIENT_RTOL + 1e-6 / max(abs(published), 1e-12))


def _loss(network: Emb, batch: Batch) -> Tensor:
    threshold = torch.tensor(OF_STEPS, dtype=torch.float64)
    return network.losses_at(threshold, network(batch), batch, EmbLosses())["total"]


def _after_one_step(golden: Golden, prefix: str, network: Emb, batch: Batch, name: str) -> Iterator[Comparison]:
    optimiser_step(make_optimiser(network, STEPS), _loss(network, batch), STEPS.lr, CLIP)
    state = network.state_dict()
    for key in golden:
        if key.startswith(f"{prefix}/after_step_1/"):
            ours = our_name(key.removeprefix(f"{prefix}/after_step_1/"), name)
            assert ours is not None
            yield absolute(key, state[ours].reshape(golden[key].shape), golden[key])


def first_answer(network: Emb, output: EmbOutput, batch: Batch) -> np.ndarray:
    """(N, 2) first and last row of the best answer."""
    bounds = network.decode(output, batch).windows[:, 0] * batch.query_mask().sum(1)[:, None]
    return (bounds.round().long() - torch.tensor([0, 1])).numpy()


def _check_postprocessing(golden: Golden) -> Iterator[Comparison]:
    lengths = torch.from_numpy(golden["length"])
    start, end = (torch.from_numpy(golden[f"{side}_logits"]).log_softmax(1) for side in ("start", "end"))
    mask = torch.arange(start.shape[1]) < lengths[:, None]
    for behaviour in ("official", "fixed"):
        pairs, scores = best_pairs(start, end, mask, 5, behaviour == "official")
        for place, side in enumerate(("start", "end")):
            key = f"{behaviour}/{side}_idx"
            yield _same(key, pairs[:, 0, place].numpy(), golden[key])
            if f"{behaviour}/{side}_s" in golden:
                seconds = (pairs[:, 0, place].double() + place) / lengths * torch.from_numpy(golden["duration"])
                key = f"{behaviour}/{side}_s"
                yield _distance(key, seconds.float().numpy(), golden[key])
    yield _distance("fixed/score", scores[:, 0].numpy(), golden["fixed/score"])
    five = golden["fixed/five_best_nms_0.5"]
    ours = np.concatenate((pairs.numpy().astype(float), scores.numpy()[..., None]), axis=2)
    # Where fewer are left, ours has the last one again.
    known = ~np.isnan(five[..., 0])
    again = np.concatenate((np.zeros((len(ours), 1), bool), (ours[:, 1:] == ours[:, :-1]).all(2)), axis=1)
    yield _same("fixed/five_best_nms_0.5 (how many)", ~again, known)
    yield _same("fixed/five_best_nms_0.5 (rows)", ours[known][:, :2], five[known][:, :2])
    yield _distance("fixed/five_best_nms_0.5 (scores)", ours[known][:, 2], five[known][:, 2])
    yield from _check_labels(golden)
    yield from _check_figures(golden)
    for key in golden:
        if key.startswith("rows/") and key.endswith("/official"):
            video = golden[key.replace("official", "input")]
            yield _distance(key, pool_rows(video, 128) if len(video) > 128 else video, golden[key])


def _check_figures(golden: Golden) -> Iterator[Comparison]:
    """Compare overlaps, R1 at 0.3, 0.5, 0.7 and mIoU."""
    found, truth = golden["figures/predicted"], golden["figures/truth"]
    yield _distance("figures/iou", temporal_iou(found, truth), golden["figures/iou"])
    longest = float(np.maximum(found, truth).max())
    queries = [
        Annotation(i, "v", "a query", ((float(s), float(e)),), longest, None, "test") for i, (s, e) in enumerate(truth)
    ]
    windows = [np.array([[start, end, 1.0]]) for start, end in found]
    predictions = [Prediction(i, "a query", "v", window, np.zeros(0)) for i, window in enumerate(windows)]
    full = evaluate_predictions(predictions, queries, find_protocol("charades")).full
    ours = np.array([full.r1[0.3], full.r1[0.5], full.r1[0.7], full.miou])
    yield _distance("figures/r1_0.3_0.5_0.7_miou", ours, golden["figures/r1_0.3_0.5_0.7_miou"])


def _check_labels(golden: Golden) -> Iterator[Comparison]:
    start, end, rows, duration = golden["labels/start_end_rows_duration"].T
    windows = torch.from_numpy(np.stack((start, end), axis=1) / duration[:, None]).float()
    labels = rows_of_windows(windows, torch.from_numpy(rows).long(), int(rows.max()))
    yield _same("labels/official", labels.numpy(), golden["labels/official"])


def _same(name: str, ours: np.ndarray, published: np.ndarray) -> Comparison:
    """Compare indices, which must be equal."""
    if ours.shape != published.shape:
        return Comparison(name, float("nan"), 0.0)
    return Comparison(name, float((ours != published).sum()), 0.0)


def _distance(name: str, ours: np.ndarray, published: np.ndarray) -> Comparison:
    if ours.shape != published.shape:
        return Comparison(name, float("nan"), OUTPUT_ATOL)
    return Comparison(name, float(np.abs(ours.astype(np.float64) - published).max()), OUTPUT_ATOL)
