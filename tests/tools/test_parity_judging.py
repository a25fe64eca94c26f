"""What rounding does to a number is forgiven, on any processor; a wrong formula is not, though it is judged again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from judged_files import CANCELLING, Judged, judged_file
from torch import Tensor

from mesm.model import kernels, losses
from mesm.model.kernels import dot_product, elementwise, feed_forward_block
from mesm.model.network import Network
from mesm.model.networks import mesm, moment_detr, qd_detr
from mesm.pipeline.config.schema import TrainConfig
from mesm.tools import parity_judging, parity_mesm
from mesm.tools.parity_judging import AGAIN, MOST, NOISE, Scalar, judged, move_by_rounding
from mesm.tools.parity_mesm import Comparison

NETWORKS = tuple(CANCELLING)


def scalar(ours: float, published: float = 1.0, name: str = "sum") -> Scalar:
    return Scalar(name, ours, published, 1e-3)


def passes(first: float, others: list[float], published: float = 1.0) -> bool:
    """Whether a number is let through, when it is found to be `others` again."""
    ((_, difference),) = judged([scalar(first, published)], lambda i: [scalar(others[i % len(others)], published)])
    return difference <= 1e-3


def test_what_is_within_its_tolerance_is_computed_once() -> None:
    def again(attempt: int) -> list[Scalar]:
        raise AssertionError(attempt)

    assert [difference for _, difference in judged([scalar(1.0005), scalar(1.0)], again)] == [pytest.approx(5e-4), 0.0]


def test_it_is_computed_again_until_it_holds_and_no_more_than_so_often() -> None:
    seen: list[int] = []

    def again(attempt: int) -> list[Scalar]:
        seen.append(attempt)
        return [scalar(1.0041 if attempt < 2 else 0.998)]

    assert [difference for _, difference in judged([scalar(1.004)], again)] == [0.0]
    assert seen == [0, 1, 2]
    assert [difference for _, difference in judged([scalar(1.004)], lambda attempt: [scalar(1.004)])] == [
        pytest.approx(4e-3)
    ]


def test_nothing_is_computed_again_where_a_formula_is_known_to_differ() -> None:
    def again(attempt: int) -> list[Scalar]:
        raise AssertionError(attempt)

    assert [difference for _, difference in judged([scalar(1.25)], again, forgiving=False)] == [0.25]


@pytest.mark.parametrize(
    ("first", "others", "holds"),
    [
        (1.003, [0.999], True),  # The published number lies among ours.
        (1.004, [1.002, 1.006], True),  # It lies beside, by less than ours lie apart.
        (1.05, [0.98, 1.05, 1.051], True),  # Another branch was taken, in one case of three.
        (1.01, [1.01, 1.0101], False),  # All are off together: a wrong formula.
        (1.03, [1.06, 1.03], False),  # They lie far apart, but all too high; slack ends at MOST.
        (1.004, [1.0041], False),
        (math.nan, [1.0], False),
        (1.0, [1.0], True),
        (1.002, [math.nan], False),
        (0.99, [math.inf], False),
    ],
)
def test_the_range_of_ours_decides(first: float, others: list[float], holds: bool) -> None:
    assert MOST < 0.03
    assert passes(first, others) == holds


def test_what_is_nothing_in_exact_arithmetic_is_noise_on_both_sides() -> None:
    assert passes(0.0, [0.0], NOISE / 2)
    assert passes(NOISE / 2, [0.0], NOISE / 20)
    assert not passes(0.0, [0.0], 2 * NOISE)
    assert not passes(2 * NOISE, [2 * NOISE], NOISE / 20)
    assert not passes(0.0, [0.0], -1.0)
    assert not passes(-1.0, [-1.0], 0.0)
    assert passes(-1.0, [-1.0], -1.0)
    assert not passes(1.0, [1.0], math.nan)


def test_weights_move_by_one_unit_in_their_last_place() -> None:
    network = torch.nn.Linear(50, 40)
    before = network.weight.detach().clone()
    move_by_rounding(network, 7)
    up, down = (torch.nextafter(before, torch.full((), end)) for end in (math.inf, -math.inf))
    raised = network.weight == up
    assert ((network.weight == down) | raised).all()
    assert 0.4 < raised.float().mean() < 0.6
    other = torch.nn.Linear(50, 40)
    other.load_state_dict({"weight": before, "bias": torch.zeros(40)})
    move_by_rounding(other, 8)
    assert not torch.equal(other.weight, network.weight)


class Files(dict[str, Judged]):
    """The files of the networks, each made when it is asked for."""

    def __missing__(self, name: str) -> Judged:
        self[name] = judged_file(name)
        return self[name]


@pytest.fixture(scope="module")
def files() -> Files:
    return Files()


def failures(rows: list[Comparison]) -> list[str]:
    return [row.name for row in rows if not row.passed]


@pytest.mark.parametrize("name", [pytest.param("mesm", marks=pytest.mark.slow), "qd-detr", "moment-detr"])
def test_noise_of_rounding_is_out_of_tolerance_and_forgiven(
    files: Files, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = files[name].training_rows()
    assert len(rows) > 80
    assert not failures(rows)
    monkeypatch.setattr(parity_judging, "AGAIN", 0)
    assert failures(files[name].training_rows()) == [files[name].key]


@pytest.mark.parametrize("name", [pytest.param("mesm", marks=pytest.mark.slow), "qd-detr", "moment-detr"])
def test_more_than_the_noise_is_not_forgiven(files: Files, name: str) -> None:
    file = files[name]
    changed = dataclasses.replace(file, arrays={**file.arrays, file.key: file.arrays[file.key] * 1.04})
    assert failures(changed.training_rows()) == [file.key]


Mistake = Callable[[pytest.MonkeyPatch], None]


def in_networks(name: str, change: Callable[[Any], Any]) -> Mistake:
    """Change a function that networks import."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        for module in (mesm, qd_detr, moment_detr):
            if hasattr(module, name):
                patch.setattr(module, name, change(getattr(module, name)))

    return apply


def sum_for_mean(patch: pytest.MonkeyPatch) -> None:
    known = losses.span_losses

    def summed(logits: Tensor, *arguments: Any) -> dict[str, Tensor]:
        found = known(logits, *arguments)
        return {**found, "label": found["label"] * logits.shape[1] * logits.shape[2]}

    patch.setattr(losses, "span_losses", summed)


def keys_of_others(by: int, dim: int) -> Mistake:
    """Hide the keys that another sequence (dim 0), or another key (dim -1), should hide."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        visible, attention = dot_product._visible, kernels.fast_attention

        def rolled(mask: Tensor | None) -> Tensor | None:
            return None if mask is None else mask.roll(by, dim)

        patch.setattr(dot_product, "_visible", lambda *arguments: rolled(visible(*arguments)))
        patch.setattr(kernels, "fast_attention", lambda q, k, v, mask, *rest: attention(q, k, v, rolled(mask), *rest))

    return apply


def rectifier_gradient(place: type, number: int) -> Mistake:
    """One of the gradients of a fast form, off by one in a hundred; the plain form is right."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        known = place.backward  # type: ignore[attr-defined]

        def wrong(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            return tuple(1.01 * x if i == number and x is not None else x for i, x in enumerate(known(ctx, gradient)))

        patch.setattr(place, "backward", staticmethod(wrong))

    return apply


def learning_rate(factor: float) -> Mistake:
    def apply(patch: pytest.MonkeyPatch) -> None:
        known = parity_mesm.optimiser_step
        patch.setattr(parity_mesm, "optimiser_step", lambda o, total, rate, clip: known(o, total, rate * factor, clip))

    return apply


def weight_decay(factor: float) -> Mistake:
    def apply(patch: pytest.MonkeyPatch) -> None:
        known = parity_mesm.make_optimiser

        def wrong(network: Network, train: TrainConfig) -> torch.optim.Optimizer:
            return known(network, dataclasses.replace(train, weight_decay=factor * train.weight_decay))

        patch.setattr(parity_mesm, "make_optimiser", wrong)

    return apply


MISTAKES: dict[str, tuple[tuple[str, ...], Mistake]] = {
    "slope x 1.01": (("mesm", "qd-detr"), rectifier_gradient(feed_forward_block._FeedForward, 4)),
    "rectifier x 1.01": (("moment-detr",), rectifier_gradient(elementwise._Prelu, 0)),
    "learning rate": (NETWORKS, learning_rate(1.02)),
    "weight decay": (("qd-detr", "moment-detr"), weight_decay(1.05)),
    "much weight decay": (("mesm",), weight_decay(1e5)),
    "factor of the margin": (NETWORKS, in_networks("margin_loss", lambda f: lambda *a: f(*a) / 2)),
    "sum for mean": (NETWORKS, sum_for_mean),
    "keys of the next sequence": (NETWORKS, keys_of_others(1, 0)),
    # By one it changes nothing where padding repeats the first key.
    "keys shifted": (NETWORKS, keys_of_others(2, -1)),
    "no positions": (NETWORKS, in_networks("frame_positions", lambda f: lambda *a: torch.zeros_like(f(*a)))),
    "factor of the agreement": (("mesm", "qd-detr"), in_networks("agreement", lambda f: lambda *a: f(*a) * 1.01)),
}
QUICK = ("slope x 1.01", "qd-detr")
SEEDED = [
    pytest.param(name, mistake, id=f"{name}: {what}", marks=[] if (what, name) == QUICK else pytest.mark.slow)
    for what, (names, mistake) in MISTAKES.items()
    for name in names
]


@pytest.mark.parametrize(("name", "mistake"), SEEDED)
def test_a_wrong_formula_fails_though_it_is_judged_again(
    files: Files, monkeypatch: pytest.MonkeyPatch, name: str, mistake: Mistake
) -> None:
    file = files[name]  # made before anything is wrong
    mistake(monkeypatch)
    again: list[int] = []
    known = parity_mesm.move_by_rounding

    def counted(network: Network, seed: int) -> None:
        again.append(seed)
        known(network, seed)

    monkeypatch.setattr(parity_mesm, "move_by_rounding", counted)
    found = failures(file.training_rows())
    assert again == list(range(AGAIN))
    assert [key for key in found if key != file.key]
