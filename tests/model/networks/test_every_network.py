"""What holds for every network that learns: answers, losses, gradients, and that its row is complete."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest
import torch
from every_network import SUBJECTS, Subject, alone, at_inference, one_frame_batch
from torch._dynamo.utils import counters

from mesm.model.network import Answers, Network
from mesm.model.network_config import NetworkConfig
from mesm.model.registry import NETWORKS, NetworkEntry, find_network

TOLERANCE = 1e-5

every_network = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)


@pytest.mark.parametrize("entry", NETWORKS.values(), ids=NETWORKS)
def test_every_row_can_be_loaded(entry: NetworkEntry) -> None:
    assert issubclass(entry.network_class(), Network)
    assert issubclass(entry.config_class(), NetworkConfig)
    assert is_dataclass(entry.losses_class())
    assert entry.config_class()().name == entry.name
    assert entry.source


def test_an_unknown_network_has_a_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"no network 'qd_detr' \(did you mean 'qd-detr'\?\)"):
        find_network("qd_detr")


@every_network
@torch.no_grad()
def test_a_query_is_answered_alone_as_in_any_batch(subject: Subject) -> None:
    network, batch = subject.build().eval(), subject.batch()
    together = network.decode(network(batch), batch)
    for query in range(batch.count):
        single = alone(batch, query)
        found = network.decode(network(single), single)
        length = single.frames.lengths[0]
        for ours, other in (
            (found.windows[0], together.windows[query]),
            (found.scores[0], together.scores[query]),
            (found.saliency[0], together.saliency[query, :length]),
        ):
            assert float((ours - other).abs().max()) <= TOLERANCE


@every_network
@torch.no_grad()
def test_answers_are_windows_with_scores_of_all_queries(subject: Subject) -> None:
    network, batch = subject.build().eval(), at_inference(subject.batch())
    for rank_by in subject.config.rankings():
        answers: Answers = network.decode(network(batch).float(), batch, rank_by)
        n, k, two = answers.windows.shape
        assert (n, two) == (batch.count, 2)
        assert answers.windows.dtype == torch.float64
        assert answers.scores.shape == (n, k)
        assert bool(((answers.scores >= 0) & (answers.scores <= 1)).all())
        assert bool((answers.windows[..., 0] <= answers.windows[..., 1]).all())
        assert answers.saliency.shape == (n, batch.frames.width)
        assert not answers.saliency[~batch.query_mask()].any()


@every_network
@torch.no_grad()
def test_training_branches_do_not_change_the_answer(subject: Subject) -> None:
    network, batch = subject.build().eval(), subject.batch()
    full, plain = (network.decode(network(b), b) for b in (batch, at_inference(batch)))
    assert torch.allclose(full.windows, plain.windows, atol=TOLERANCE)
    assert torch.allclose(full.scores, plain.scores, atol=TOLERANCE)


@every_network
@pytest.mark.parametrize("windows", [1, 3])
def test_every_parameter_learns(subject: Subject, windows: int) -> None:
    network, batch = subject.build().train(), subject.batch(windows=windows)
    losses = network.losses(network(batch), batch, subject.losses)
    losses["total"].backward()
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    silent = [n for n, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not silent


@every_network
def test_the_total_weighs_every_part(subject: Subject) -> None:
    network, batch, weights = subject.build().eval(), subject.batch(), subject.losses
    losses = {name: value.item() for name, value in network.losses(network(batch), batch, weights).items()}
    known = {f.name for f in fields(weights)}
    parts = {name: value for name, value in losses.items() if name != "total"}
    assert {name.removesuffix("_0") for name in parts} <= known
    expected = sum(getattr(weights, name.removesuffix("_0")) * value for name, value in parts.items())
    assert losses["total"] == pytest.approx(expected, rel=1e-5)


@every_network
def test_losses_without_targets_are_refused(subject: Subject) -> None:
    network, batch = subject.build().eval(), at_inference(subject.batch())
    with pytest.raises(ValueError, match="targets"):
        network.losses(network(batch), batch, subject.losses)


@every_network
def test_gradients_are_the_same_bits_every_time(subject: Subject) -> None:
    network, batch = subject.build().train(), subject.batch()
    seen: list[list[torch.Tensor]] = []
    for _ in range(2):
        torch.manual_seed(1)
        network.zero_grad()
        network.losses(network(batch), batch, subject.losses)["total"].backward()
        seen.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


@every_network
def test_videos_of_one_frame_have_finite_losses(subject: Subject) -> None:
    network, batch = subject.build().train(), one_frame_batch(subject)
    losses = network.losses(network(batch), batch, subject.losses)
    losses["total"].backward()
    assert all(bool(torch.isfinite(value)) for value in losses.values())


@every_network
def test_assigned_beforehand_the_losses_are_the_same(subject: Subject) -> None:
    network, batch = subject.build().eval(), subject.batch(windows=3)
    output = network(batch)
    assigned = network.assign(output, batch, subject.losses)
    ours = network.losses(output, batch, subject.losses, assigned=assigned)
    for name, value in network.losses(output, batch, subject.losses).items():
        assert torch.equal(ours[name], value)


@pytest.mark.slow
@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.config.compiles()], ids=lambda subject: subject.name)
def test_one_graph_serves_the_network(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend="eager", **options))
    from mesm.pipeline.train.compiling import forward_and_losses

    torch._dynamo.reset()
    counters.clear()
    network = subject.without_dropout().train()
    forward, losses = forward_and_losses(network, compiled=True)
    with torch.no_grad():
        for seed in range(3):
            batch = subject.batch(seed)
            network.prepare(batch)
            ours = losses(forward(batch), batch, subject.losses)
            torch.testing.assert_close(
                ours, network.losses(network(batch), batch, subject.losses), rtol=1e-5, atol=1e-6
            )
    assert counters["stats"]["unique_graphs"] == 2
