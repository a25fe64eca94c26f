"""The feed-forward block: its fast form is the formula, forward and backward, whatever is dropped."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mesm.model.kernels import feed_forward, plain_kernels
from mesm.model.kernels.feed_forward_block import fast_feed_forward, plain_feed_forward

SIZES = ((7, 4), (7, 4), (6, 4), (6,), (4, 6), (4,), (1,))


def every_third(shape: torch.Size, p: float) -> tuple[torch.Tensor, float]:
    """Drop by a rule that the formula can follow."""
    keep = (torch.arange(int(np.prod(tuple(shape)))) % 3 > 0).to(torch.uint8)
    return keep.view(*shape), 1.5


@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("slope_value", [0.3, 2.0, 0.0, -0.3])
def test_fast_form_is_the_formula(monkeypatch: pytest.MonkeyPatch, p: float, slope_value: float) -> None:
    torch.manual_seed(0)

    def drop(x: torch.Tensor) -> torch.Tensor:
        keep, factor = every_third(x.shape, p)
        return x * keep * factor if p else x

    for module in ("feed_forward_block", "elementwise"):
        monkeypatch.setattr(f"mesm.model.kernels.{module}.draw_mask", every_third)
    monkeypatch.setattr("mesm.model.kernels.feed_forward_block.BLOCK", 3)
    parts = [torch.randn(*size, requires_grad=True) for size in SIZES]
    residual, x, *weights, slope = parts
    weight1, bias1, weight2, bias2 = weights
    with torch.no_grad():
        slope.fill_(slope_value)
    ours = fast_feed_forward(residual, x, (weight1, bias1, weight2, bias2), slope, p, True)
    expected = residual + drop(F.linear(drop(F.prelu(F.linear(x, weight1, bias1), slope)), weight2, bias2))
    torch.testing.assert_close(ours, expected)
    with torch.no_grad():
        torch.testing.assert_close(
            fast_feed_forward(residual, x, (weight1, bias1, weight2, bias2), slope, p, True), expected
        )
    above = torch.randn_like(ours)
    gradients = (torch.autograd.grad(y, parts, above) for y in (ours, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_both_forms_agree_on_more_axes_without_dropout() -> None:
    torch.manual_seed(0)
    residual, x = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    weights = (torch.randn(6, 4), torch.randn(6), torch.randn(4, 6), torch.randn(4))
    fast = feed_forward(residual, x, weights, torch.full((1,), 0.2), 0.5, False)
    with plain_kernels():
        plain = feed_forward(residual, x, weights, torch.full((1,), 0.2), 0.5, False)
    torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("form", [fast_feed_forward, plain_feed_forward])
def test_both_dropouts_drop_when_training(form: Callable[..., torch.Tensor]) -> None:
    """A hidden layer of one 1: the output is 4 where neither dropout hits, in a quarter of all places."""
    torch.manual_seed(0)
    one, nothing = torch.ones(1, 1), torch.zeros(1)
    arguments = (torch.zeros(20000, 1), torch.ones(20000, 1), (one, nothing, one, nothing), torch.full((1,), 0.2), 0.5)
    out = form(*arguments, True)
    assert float((out != 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(out.max()) == pytest.approx(4)
    assert torch.equal(form(*arguments, False), torch.ones(20000, 1))
