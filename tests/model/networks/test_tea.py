"""TEA: without its parts it is EMB, its answers follow the narrative, its numbers are those of the plain reading."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from every_network import SIZES, Subject, alone
from shared import shared_path

from mesm.model.batch import Targets
from mesm.model.networks.emb import EmbConfig, EmbLosses, TeaConfig
from mesm.model.registry import build_network
from mesm.tools.parity import check_file

SMALL = {"dim": 32, "heads": 4}


def test_without_its_parts_it_is_emb_bit_for_bit() -> None:
    networks = []
    for config in (EmbConfig(**SMALL), TeaConfig(**SMALL, narrative="none", paragraph=False)):  # type: ignore[arg-type]
        torch.manual_seed(3)
        networks.append(build_network(config, SIZES).train())
    states = [network.state_dict() for network in networks]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    batch, totals = replace(Subject("emb").batch(), narration=None), []
    for network in networks:
        torch.manual_seed(4)
        totals.append(network.losses(network(batch), batch, EmbLosses())["total"])
        totals[-1].backward()
    assert torch.equal(*totals)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(*(n.parameters() for n in networks), strict=True))


def test_its_parts_come_after_those_of_emb() -> None:
    """Seeds draw the same numbers for what both have."""
    states = []
    for config in (EmbConfig(**SMALL), TeaConfig(**SMALL)):  # type: ignore[arg-type]
        torch.manual_seed(3)
        states.append(build_network(config, SIZES).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("options", [{}, {"narrative": "add", "paragraph": False}, {"narrative": "none"}], ids=str)
@torch.no_grad()
def test_answers_follow_the_narrative(options: dict[str, object]) -> None:
    subject = Subject("tea")
    batch, network = subject.batch(), subject.build(**options).eval()
    assert batch.narration is not None
    other = replace(batch, narration=batch.narration.flip(0))
    ours, theirs = (network.decode(network(b), b) for b in (batch, other))
    assert not torch.equal(ours.scores, theirs.scores)
    with pytest.raises(ValueError, match="no narration"):
        network(replace(batch, narration=None))


@torch.no_grad()
def test_a_branch_without_weight_changes_no_answer() -> None:
    subject = Subject("tea")
    batch, network = subject.batch(), subject.build().eval()
    silent = build_network(replace(network.config, alpha=0.0), SIZES).eval()  # type: ignore[type-var]
    alone = build_network(replace(network.config, paragraph=False), SIZES).eval()  # type: ignore[call-arg,type-var]
    silent.load_state_dict(network.state_dict())
    alone.load_state_dict({n: v for n, v in network.state_dict().items() if not n.startswith("paragraph.")})
    ours, theirs = (one.decode(one(batch), batch) for one in (silent, alone))
    assert torch.equal(ours.windows, theirs.windows)
    assert torch.equal(ours.scores, theirs.scores)


@torch.no_grad()
def test_scores_are_shares_of_what_both_branches_can_give() -> None:
    subject = Subject("tea")
    batch, network = subject.batch(), subject.build(alpha=1.0).eval()
    output = network(batch)
    log_start, log_end = output.log_chances()
    assert torch.allclose(log_start.exp().sum(1), torch.tensor(2.0))
    best = network.decode(output, batch).scores[:, 0]
    pairs = (log_start.exp()[..., None] * log_end.exp()[:, None]).triu().flatten(1).amax(1)
    assert torch.allclose(best.float(), pairs / 4, rtol=1e-5)


@torch.no_grad()
def test_proposals_are_left_out_of_answers() -> None:
    subject = Subject("emb")
    batch, network = subject.batch(), subject.build().eval()
    trained, asked = network(batch), network(replace(batch, targets=None))
    assert asked.proposal_scores is None
    assert torch.equal(trained.start_logits, asked.start_logits)
    assert torch.equal(trained.highlight, asked.highlight)


@torch.no_grad()
def test_proposals_depend_on_the_batch_as_published_alone() -> None:
    """The published code lets padding reach them; mended, a query has the same scores in any batch."""
    moved = {}
    for behaviour in ("official", "fixed"):
        subject = Subject("emb")
        batch, network = subject.batch(), subject.build(behaviour=behaviour).eval()
        single = alone(batch, 0)
        assert batch.targets is not None
        first = {f.name: getattr(batch.targets, f.name)[:1] for f in fields(batch.targets)}
        found, together = network(replace(single, targets=Targets(**first))), network(batch)
        valid = together.proposal_mask[0]
        ours = found.proposal_scores[0, found.proposal_mask[0]]
        moved[behaviour] = float((together.proposal_scores[0, valid] - ours).abs().max())
    assert moved["fixed"] < 1e-6 < moved["official"]


@pytest.mark.slow
def test_the_plain_reading_of_the_paper_is_met() -> None:
    subject, rows = check_file(shared_path("golden/golden_tea_reference.npz"))
    assert subject.startswith("tea, ")
    assert len(rows) > 1000
    assert not [row.name for row in rows if not row.passed]
