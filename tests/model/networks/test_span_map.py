"""What holds for the span map alone: what its loss wants, and that its members are averaged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from every_network import Subject, at_inference

from mesm.model.networks.span_map import SpanMap, SpanMapLosses, SpanMapOutput
from mesm.model.span_pairs import overlaps_of_pairs, pair_mask

SUBJECT = Subject("span-map")


def test_the_loss_is_least_for_the_wanted_probabilities() -> None:
    """Cross-entropy is least, the entropy of what is wanted, where the network says just that."""
    network, batch, weights = SUBJECT.build().eval(), SUBJECT.batch(windows=2), SpanMapLosses(frame=0.0)
    assert isinstance(network, SpanMap)
    assert batch.targets is not None
    mask = batch.query_mask()
    wanted = torch.exp((overlaps_of_pairs(batch.targets.windows, mask) - 1) / weights.softness)
    wanted = (wanted * batch.targets.window_mask[:, :, None, None]).sum(1) * pair_mask(mask)
    wanted = wanted / wanted.sum((1, 2), keepdim=True)
    output = SpanMapOutput(wanted.log()[None], torch.zeros(1, *mask.shape), mask)
    least = network.losses(output, batch, weights)["total"]
    entropy = -(wanted * wanted.clamp(min=1e-30).log()).sum((1, 2)).mean()
    assert least.item() == pytest.approx(entropy.item(), rel=1e-5)
    for seed in range(3):
        noise = 0.5 * torch.randn(wanted.shape, generator=torch.Generator().manual_seed(seed))
        assert network.losses(replace(output, pairs=output.pairs + noise), batch, weights)["total"] > least


@torch.no_grad()
def test_members_are_averaged() -> None:
    network, batch = SUBJECT.build(members=3).eval(), at_inference(SUBJECT.batch())
    output = network(batch)
    assert output.pairs.shape[0] == 3
    assert not torch.equal(output.pairs[0], output.pairs[1])
    probability = output.pairs.flatten(2).softmax(2).mean(0).log().view_as(output.pairs[0])
    joined = SpanMapOutput(probability[None], output.frames[:1], output.mask)
    ours, other = network.decode(output, batch), network.decode(joined, batch)
    torch.testing.assert_close(ours.windows, other.windows)
    torch.testing.assert_close(ours.scores, other.scores)


@torch.no_grad()
def test_the_most_wanted_moment_is_answered_first() -> None:
    """A map that is all but certain of one window answers that one."""
    network, batch = SUBJECT.build().eval(), at_inference(SUBJECT.batch())
    mask = batch.query_mask()
    pairs = torch.zeros(1, *pair_mask(mask).shape).masked_fill(~pair_mask(mask), -torch.inf)
    pairs[:, :, 1, 3] = 20.0
    answers = network.decode(SpanMapOutput(pairs, torch.zeros(1, *mask.shape), mask), batch)
    rows = mask.sum(1).double()
    torch.testing.assert_close(answers.windows[:, 0], torch.stack((1 / rows, 4 / rows), dim=-1))
    assert (answers.scores[:, 0] > 0.99).all()
    assert torch.allclose(answers.saliency[:, 1:4], torch.ones(len(rows), 3), atol=1e-4)
