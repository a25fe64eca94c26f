"""MSAT's parts: points, grid, targets, ranking, encoders, and the contrast with its queue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.datasets.targets import pool_rows
from mesm.model.batch import Batch
from mesm.model.kernels import plain_kernels
from mesm.model.layers.grid import GridHead, candidate_diagonals
from mesm.model.layers.points import at_rows, bags_of_points, pool_points
from mesm.model.momentum_contrast import EMPTY, Contrasted, MomentumContrast
from mesm.model.network_config import Sizes
from mesm.model.networks.msat import Msat, MsatConfig, MsatLosses
from mesm.model.proposal_losses import cells_near, overlap_loss, stage_targets
from mesm.model.ranking import best_apart
from mesm.tools.parity import check_file
from mesm.tools.synthetic_batches import BatchShape, make_batch

SHAPE = BatchShape(30, 24, 23, (9, 300, 6), (0, 0, 1, 2), (0, 1, 2, 3), words=8)
SIZES = Sizes(30, 24, 23)
SMALL = MsatConfig(dim=32, heads=4, feed_forward_dim=24, dropout=0.0, encoder_layers=2, groups=1, clips=16)
ALL_KINDS = [
    SMALL,
    replace(SMALL, encoder="asymmetric"),
    replace(SMALL, encoder="asymmetric", ffn="figure"),
    replace(SMALL, vtc=True, vtc_queue=9),
    replace(SMALL, encoder="asymmetric", vtc=True, vtc_queue=9, behaviour="official"),
]
every_kind = pytest.mark.parametrize("config", ALL_KINDS, ids=["decoupled", "acb", "figure", "vtc", "official"])


def build(config: MsatConfig) -> Msat:
    torch.manual_seed(0)
    network = Msat(config, SIZES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.mark.slow
def test_asymmetric_co_attention_and_contrast_are_those_of_the_published_code() -> None:
    subject, rows = check_file(Path(__file__).parent / "networks" / "golden" / "acb-vtc.npz")
    assert subject == "acb-vtc, tacos-c3d-glove"
    assert len(rows) > 20
    assert not [row.name for row in rows if not row.passed]


@pytest.mark.parametrize("rows", [1, 2, 31, 255, 256, 257, 300, 1000])
@pytest.mark.parametrize("clips", [32, 128])
def test_points_are_pools_of_bins(rows: int, clips: int) -> None:
    video = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
    size = 256 // clips
    bins = torch.from_numpy(pool_rows(video, 256)).T[None]
    expected = F.avg_pool1d(bins, size, size, size // 2)[0].T
    twice = torch.from_numpy(np.concatenate((video, video)))
    found = pool_points(twice, bags_of_points([rows, rows], clips, 256, torch.device("cpu")))
    assert found.shape == (2 * (clips + 1), 3)
    torch.testing.assert_close(found, expected.repeat(2, 1), rtol=1e-5, atol=1e-6)


def test_values_at_rows_lie_between_those_of_points() -> None:
    values = torch.arange(5.0)[None]
    place = torch.arange(1, 9)
    found = at_rows(values, place, torch.full((8,), 8), torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(found, torch.arange(0.25, 4, 0.5))


@pytest.mark.parametrize(("clips", "cells"), [(32, 428), (128, 2548)])
def test_candidates_are_those_of_the_published_grids(clips: int, cells: int) -> None:
    head = GridHead(4, 4, clips, 0.0)
    assert len(head.starts) == len({*zip(head.starts.tolist(), head.ends.tolist(), strict=True)}) == cells
    assert bool((head.starts < head.ends).all())
    assert int(head.ends.max()) == clips
    assert candidate_diagonals(8) == tuple((length, 1, 9 - length) for length in range(1, 9))


def test_cells_along_diagonals_are_those_one_by_one() -> None:
    torch.manual_seed(0)
    head = GridHead(6, 5, 32, 0.0)
    parts = [torch.randn(2, 33, 6, requires_grad=True) for _ in range(3)]
    points = head.project(*parts)
    query = torch.arange(2).repeat_interleave(len(head.starts))
    single = head.cells(points, query, head.starts.repeat(2), head.ends.repeat(2)).view(2, -1, 3)
    direct = torch.cat(
        (parts[0][:, head.starts], parts[1][:, (head.starts + head.ends) // 2], parts[2][:, head.ends]), dim=-1
    )
    whole = head.second(head.first(direct).relu())
    weight = torch.randn_like(whole)
    expected = torch.autograd.grad((whole * weight).sum(), [*parts, *head.parameters()])
    found = head.candidates(points)
    with plain_kernels():
        plain = head.candidates(points)
    for other in (found, plain, single):
        torch.testing.assert_close(other, whole, rtol=1e-4, atol=1e-5)
        ours = torch.autograd.grad((other * weight).sum(), [*parts, *head.parameters()], retain_graph=True)
        for one, wanted in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_dropped_cells_is_that_of_their_values() -> None:
    torch.manual_seed(0)
    head = GridHead(3, 4, 8, 0.5).train()
    parts = [torch.randn(1, 9, 4, dtype=torch.float32, requires_grad=True) for _ in range(3)]

    def value(*given: Tensor) -> Tensor:
        torch.manual_seed(3)
        return head.candidates(given).sum()  # type: ignore[arg-type]

    gradients = torch.autograd.grad(value(*parts), parts)
    for number, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
        direction, step = torch.randn_like(part), 1e-3
        moved = [[*parts], [*parts]]
        for sign, row in zip((1, -1), moved, strict=True):
            row[number] = part + sign * step * direction
        slope = (value(*moved[0]) - value(*moved[1])) / (2 * step)
        assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=0.02, abs=0.02)


def test_a_moment_between_points_is_learnt_at_the_nearest() -> None:
    windows = torch.tensor([[[5.3, 5.4]], [[0.0, 16.0]]])
    target, near = stage_targets(windows, torch.ones(2, 1, dtype=torch.bool), 16, 0.7)
    assert torch.equal(target[0].nonzero()[:, 1], torch.tensor([5, 5, 5]))
    assert float(target.max()) == 1
    cells = cells_near(windows, near)
    torch.testing.assert_close(cells.offsets[cells.query == 0], torch.tensor([[0.3, 0.4]]))
    assert float(cells.weight.sum()) == pytest.approx(2)
    assert bool((cells.start[cells.query == 1] <= 6).all())


def test_of_several_moments_each_place_takes_the_best() -> None:
    windows = torch.tensor([[[1.0, 4.0], [9.0, 14.0]]])
    both, near = stage_targets(windows, torch.ones(1, 2, dtype=torch.bool), 16, 0.7)
    parts = [stage_targets(windows[:, i : i + 1], torch.ones(1, 1, dtype=torch.bool), 16, 0.7)[0] for i in range(2)]
    assert torch.equal(both, torch.maximum(*parts))
    alone, _ = stage_targets(windows, torch.tensor([[True, False]]), 16, 0.7)
    assert torch.equal(alone, parts[0])
    assert near.shape == (1, 2, 2, 17)


def slow_choice(windows: np.ndarray, scores: np.ndarray, possible: np.ndarray, most: float, count: int) -> list[int]:
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable"):
        if possible[place] and len(kept) < count:
            start, end = windows[place]
            overlaps = []
            for other in kept:
                inner = max(min(end, windows[other][1]) - max(start, windows[other][0]), 0)
                overlaps.append(inner / ((end - start) + (windows[other][1] - windows[other][0]) - inner))
            if all(overlap <= most for overlap in overlaps):
                kept.append(int(place))
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_the_best_that_lie_apart_are_those_of_greedy_suppression(seed: int) -> None:
    draw = np.random.default_rng(seed)
    windows, scores = np.sort(draw.random((3, 60, 2)), axis=-1), draw.random((3, 60))
    possible = draw.random((3, 60)) < 0.7
    possible[2, 3:] = False
    best, counts = best_apart(*map(torch.from_numpy, (windows, scores, possible)), 0.37, 5)
    for query in range(3):
        expected = slow_choice(windows[query], scores[query], possible[query], 0.37, 5)
        assert best[query, : int(counts[query])].tolist() == expected


@every_kind
@torch.no_grad()
def test_without_a_possible_moment_there_are_no_answers(config: MsatConfig) -> None:
    network, batch = build(config).eval(), make_batch(SHAPE)
    output = network(batch)
    output.cells[..., 0] = 1e3
    answers = network.decode(output, batch)
    assert answers.counts is not None
    assert not answers.counts.any()
    losses = network.losses(output, batch, MsatLosses())
    assert bool(torch.isfinite(losses["overlap"])) == (config.behaviour == "fixed")


def test_a_query_without_used_cells_adds_nothing() -> None:
    logits, target = torch.zeros(2, 3), torch.ones(2, 3)
    used = torch.tensor([[True, True, False], [False] * 3])
    whole = overlap_loss(logits, target, used, strict=False)
    torch.testing.assert_close(whole, overlap_loss(logits[:1], target[:1], used[:1], strict=True) / 2)


@every_kind
@torch.no_grad()
def test_queries_of_a_video_are_answered_as_if_each_had_its_own(config: MsatConfig) -> None:
    network, batch = build(config).eval(), make_batch(SHAPE)
    output = network(batch)
    copied = replace(batch, video_of_query=(0, 1, 2, 3), **_copied(batch))
    for name in ("stages", "cells", "near", "words"):
        torch.testing.assert_close(getattr(network(copied), name), getattr(output, name), rtol=1e-4, atol=1e-5)


def _copied(batch: Batch) -> dict[str, object]:
    frames, rows = batch.frames.select(batch.video_of_query)
    return {"video": batch.video[rows], "frames": frames}


@every_kind
def test_losses_are_finite_and_every_parameter_learns(config: MsatConfig) -> None:
    network, batch = build(config).train(), make_batch(SHAPE)
    losses = network.losses(network(batch), batch, MsatLosses())
    losses["total"].backward()
    assert ("contrast" in losses) == config.vtc
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@torch.no_grad()
def test_long_sentences_continue_the_positions() -> None:
    config = replace(SMALL, positions=20)
    batch = make_batch(replace(SHAPE, words=30))
    network = build(config).eval()
    assert bool(torch.isfinite(network(batch).cells).all())
    with pytest.raises(ValueError, match="30 words, the published table of positions has room for 3"):
        build(replace(config, behaviour="official")).eval()(batch)


def contrasted(seed: int, queries: int, dim: int = 8) -> Contrasted:
    draw = torch.Generator().manual_seed(seed)
    vectors = [F.normalize(torch.randn(queries, dim, generator=draw), dim=-1) for _ in range(4)]
    return Contrasted(*(vector.requires_grad_(number < 2) for number, vector in enumerate(vectors)))


def plain_contrast(module: MomentumContrast, own: Contrasted, queries: Tensor) -> Tensor:
    """The loss in torch's operators, over filled columns only unless official."""
    everything = torch.cat((queries, module.queued))
    kept = everything != EMPTY if not module.official else torch.ones_like(everything, dtype=torch.bool)
    target = (queries[:, None] == everything).float()[:, kept]
    target = target / target.sum(1, keepdim=True)
    parts = []
    for query, slow, keys, queue in (
        (own.video, own.slow_video, own.slow_text, module.text_queue),
        (own.text, own.slow_text, own.slow_video, module.video_queue),
    ):
        columns = torch.cat((keys, queue)).clone()[kept]
        opinion = (slow @ columns.T / module.temperature).softmax(1).detach()
        wanted = module.alpha * opinion + (1 - module.alpha) * target
        parts.append(-(wanted * (query @ columns.T / module.temperature).log_softmax(1)).sum(1).mean())
    return sum(parts) / 2  # type: ignore[return-value]


@pytest.mark.parametrize("behaviour", ["fixed", "official"])
def test_contrast_over_a_queue_that_wraps(behaviour: str) -> None:
    torch.manual_seed(0)
    module = MomentumContrast(8, 7, 0.9, 0.3, 0, behaviour)  # type: ignore[arg-type]
    module.initialise(0.02)
    seen: list[int] = []
    for step in range(6):
        own, queries = contrasted(step, 3), torch.arange(3) + 2 * step
        expected = plain_contrast(module, own, queries)
        wanted = torch.autograd.grad(expected, [own.video, own.text, module.temperature])
        loss = module.loss(own, queries, lambda x: x)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        for found, other in zip(
            torch.autograd.grad(loss, [own.video, own.text, module.temperature]), wanted, strict=True
        ):
            torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-6)
        seen += queries.tolist()
        held = [seen[i] for i in range(max(0, len(seen) - 7), len(seen))]
        assert sorted(module.queued[module.queued != EMPTY].tolist()) == sorted(held)
        assert int(module.pointer) == len(seen) % 7
        torch.testing.assert_close(module.video_queue[(int(module.pointer) - 1) % 7], own.slow_video[-1])


def test_in_fixed_what_stands_in_empty_columns_does_not_matter() -> None:
    torch.manual_seed(0)
    module = MomentumContrast(8, 7, 0.9, 0.3, 0, "fixed")
    module.initialise(0.02)
    own, queries = contrasted(0, 3), torch.arange(3)
    first = module.loss(own, queries, lambda x: x).item()
    again = MomentumContrast(8, 7, 0.9, 0.3, 0, "fixed")
    again.initialise(0.02)
    again.video_queue.fill_(0.3)
    again.text_queue.fill_(-0.3)
    assert again.loss(own, queries, lambda x: x).item() == pytest.approx(first, rel=1e-6)


def test_slow_encoders_begin_alike_and_follow() -> None:
    torch.manual_seed(0)
    fixed, official = (MomentumContrast(8, 7, 0.9, 0.3, 0, kind) for kind in ("fixed", "official"))  # type: ignore[arg-type]
    for module in (fixed, official):
        module.initialise(0.02)
    assert torch.equal(fixed.slow_text_proj_weight, fixed.text_proj.weight)
    assert not torch.equal(official.slow_text_proj_weight, official.text_proj.weight)
    before = fixed.slow_text_proj_weight.clone()
    with torch.no_grad():
        fixed.text_proj.weight.add_(1.0)
        fixed.temperature.fill_(2.0)
    fixed.follow()
    torch.testing.assert_close(fixed.slow_text_proj_weight, before + 0.1)
    assert float(fixed.temperature.detach()) == 0.5
    assert len(dict(fixed.named_parameters())) == 9


def test_the_share_of_the_slow_opinion_grows_in_the_first_steps() -> None:
    torch.manual_seed(0)
    module = MomentumContrast(8, 9, 0.9, 0.3, 3, "fixed")
    module.initialise(0.02)
    for step in range(5):
        own, queries = contrasted(step, 2), torch.arange(2) + 2 * step
        module.alpha = 0.3 * min(1, step / 3)
        expected = plain_contrast(module, own, queries)
        module.alpha = 0.3
        torch.testing.assert_close(module.loss(own, queries, lambda x: x), expected, rtol=1e-5, atol=1e-6)


def test_a_moment_inside_a_clip_has_a_vector_in_fixed_only() -> None:
    batch = make_batch(SHAPE)
    assert batch.targets is not None
    windows = torch.tensor([[5.3 / 16, 5.4 / 16]]).expand(4, 1, 2)
    batch = replace(batch, targets=replace(batch.targets, windows=windows, window_counts=(1,) * 4))
    for behaviour, count in (("fixed", 1), ("official", 0)):
        network = build(replace(SMALL, vtc=True, behaviour=behaviour))  # type: ignore[arg-type]
        pooled = network._pooled(*network.embed(batch), batch)
        assert pooled.points.tolist() == [[count]] * 4
        words = batch.words.mask.sum(1).tolist() if behaviour == "fixed" else [8] * 4
        assert pooled.words.flatten().tolist() == words


def test_answers_need_nothing_of_the_contrast_but_its_encoders() -> None:
    network, batch = build(ALL_KINDS[3]).eval(), make_batch(SHAPE)
    state = network.answering_state()
    assert {name for name in state if name.startswith("contrast.")} == {
        f"contrast.{encoder}.{part}" for encoder in ("visual_encoder", "text_encoder") for part in ("weight", "bias")
    }
    other = Msat(ALL_KINDS[3], SIZES).eval()
    other.load_answering_state(state)
    with torch.no_grad():
        assert torch.equal(other(batch).cells, network(batch).cells)
    with pytest.raises(RuntimeError, match=r"missing: .*point_norm"):
        other.load_answering_state({name: value for name, value in state.items() if "point_norm" not in name})


def test_impossible_sizes_are_named() -> None:
    problems = replace(SMALL, heads=3, bins=40, positions=5, ffn="figure").problems()
    assert [problem.split()[0] for problem in problems] == ["dim", "bins", "positions", "ffn:"]
    assert not SMALL.problems()
