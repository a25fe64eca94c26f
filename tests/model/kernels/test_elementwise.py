"""Dropout and PReLU: the fast forms are the plain ones, but for the numbers that a dropout draws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.kernels.elementwise import (
    fast_add_dropped,
    fast_dropout,
    fast_prelu,
    plain_add_dropped,
    plain_dropout,
)

Dropout = Callable[[Tensor, float, bool], Tensor]
AddDropped = Callable[[Tensor, Tensor, float, bool], Tensor]
DROPOUTS = pytest.mark.parametrize("dropout", [fast_dropout, plain_dropout])


@DROPOUTS
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(dropout: Dropout, p: float) -> None:
    torch.manual_seed(0)
    x = torch.stack([dropout(torch.ones(100, 500), p, True) for _ in range(60)])
    assert float((x == 0).float().mean()) == pytest.approx(p, abs=0.003)
    assert float(x.mean()) == pytest.approx(1, abs=0.01)
    for one in x:
        (kept,) = one[one > 0].unique()
        assert float(kept) * (1 - p) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("p", [0.001, 0.999])
def test_fast_dropout_drops_between_two_shares_of_256(p: float) -> None:
    torch.manual_seed(0)
    x = torch.stack([fast_dropout(torch.ones(100, 500), p, True) for _ in range(60)])
    assert float((x == 0).float().mean()) == pytest.approx(min(p, 255 / 256), abs=0.003)
    assert float(x.mean()) == pytest.approx(1, abs=0.05)


@DROPOUTS
def test_dropout_is_determined_by_the_seed(dropout: Dropout) -> None:
    x = torch.randn(64, 65)

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return dropout(x, 0.5, True)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_two_draws_of_one_step_differ() -> None:
    x = torch.ones(64, 64)
    assert not torch.equal(fast_dropout(x, 0.5, True), fast_dropout(x, 0.5, True))


@DROPOUTS
def test_dropout_drops_the_gradient_where_it_dropped_the_value(dropout: Dropout) -> None:
    x = torch.ones(50, 51, requires_grad=True)
    y = dropout(x, 0.3, True)
    (gradient,) = torch.autograd.grad(y, x, 2 * torch.ones_like(y))
    assert torch.equal(gradient, 2 * y.detach())


@DROPOUTS
def test_dropout_does_nothing_outside_training(dropout: Dropout) -> None:
    x = torch.randn(3, 4)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
    assert dropout(torch.empty(0, 4), 0.5, True).shape == (0, 4)


@pytest.mark.parametrize("add_dropped", [fast_add_dropped, plain_add_dropped])
def test_add_dropped_is_a_sum_with_dropout(add_dropped: AddDropped) -> None:
    torch.manual_seed(0)
    residual, x = torch.randn(40, 30, requires_grad=True), torch.ones(40, 30, requires_grad=True)
    y = add_dropped(residual, x, 0.25, True)
    dropped = (y - residual).detach()
    of_residual, of_x = torch.autograd.grad(y, (residual, x), 2 * torch.ones_like(y))
    assert torch.allclose(of_x, 2 * dropped, atol=1e-5)
    assert torch.equal(of_residual, 2 * torch.ones(40, 30))
    assert float((dropped.abs() < 1e-6).float().mean()) == pytest.approx(0.25, abs=0.05)
    assert float(dropped.max()) == pytest.approx(4 / 3, abs=0.01)
    for p, training in ((0.25, False), (0.0, True)):
        assert torch.equal(add_dropped(residual, x, p, training), residual + x)


@pytest.mark.parametrize("slope_value", [0.25, 2.0, 0.0, -0.3])
@pytest.mark.parametrize("shape", [(40, 30), (4, 5, 6)])
def test_fast_prelu_and_its_gradients_are_those_of_torch(slope_value: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values, above = (torch.randn(*shape, dtype=torch.float64) for _ in range(2))
    results = []
    for prelu in (fast_prelu, F.prelu):
        x, slope = values.clone().requires_grad_(), torch.tensor([slope_value], dtype=torch.float64, requires_grad=True)
        y = prelu(x, slope)
        results.append((y, *torch.autograd.grad(y, (x, slope), above)))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain)


def test_a_slope_that_is_not_learnt_has_no_gradient() -> None:
    x, slope = torch.randn(5, 6, requires_grad=True), torch.zeros(1)
    fast_prelu(x, slope).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (x > 0).float())
    assert slope.grad is None
