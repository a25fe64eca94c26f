"""Attention: the fast forms are the plain ones, and drop weights by the same rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mesm.model import layouts
from mesm.model.kernels.dot_product import (
    LANES,
    fast_attention,
    fast_packed_attention,
    plain_attention,
    plain_packed_attention,
)
from mesm.model.layouts import Layout

Form = Callable[..., Tensor]
FORMS = pytest.mark.parametrize("attention", [fast_attention, plain_attention])
PACKED_FORMS = pytest.mark.parametrize("attention", [fast_packed_attention, plain_packed_attention])
HEADS = 2


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def values_and_gradients(form: Form, inputs: tuple[Tensor, ...], above: Tensor, *rest: Any) -> list[Tensor]:
    """What a form makes of q, k and v, and their gradients."""
    parts = [x.clone().requires_grad_() for x in inputs]
    out = form(*parts, *rest)
    return [out.detach(), *torch.autograd.grad(out, parts, above)]


def draw_with(monkeypatch: pytest.MonkeyPatch, draw: Callable[..., tuple[Tensor, float]]) -> None:
    """Replace what fast dropout draws by a rule."""
    for module in ("elementwise", "dot_product"):
        monkeypatch.setattr(f"mesm.model.kernels.{module}.draw_mask", draw)


def keep_all(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    return torch.ones(*shape, dtype=torch.uint8), 1.0


def drop_the_second_head(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    keep = torch.ones(*shape, dtype=torch.uint8)
    keep.view(-1, HEADS, *shape[-2:])[:, 1] = 0
    return keep, 4.0


@FORMS
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_the_formula(attention: Form, masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    mask = torch.rand(2, 1, 5, 7) < 0.6
    mask[..., 0] = True
    scores = q @ k.transpose(-2, -1) / 8**0.5
    if masked:
        scores = scores.masked_fill(~mask, float("-inf"))
    expected = scores.softmax(-1) @ v
    for p, training in ((0.1, False), (0.0, True), (1e-9, True)):
        assert torch.allclose(attention(q, k, v, mask if masked else None, p, training), expected, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_fast_attention_that_drops_nothing_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    draw_with(monkeypatch, keep_all)
    torch.manual_seed(0)
    inputs, above = (randn(2, 3, 5, 8), randn(2, 3, 7, 8), randn(2, 3, 7, 4)), randn(2, 3, 5, 4)
    mask = torch.rand(2, 1, 5, 7) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True
    expected = values_and_gradients(plain_attention, inputs, above, mask, 0.25, False)
    for p in (0.0, 0.25):
        found = values_and_gradients(fast_attention, inputs, above, mask, p, True)
        torch.testing.assert_close(found, expected)


def mean_and_variance(outputs: list[Tensor]) -> tuple[float, float]:
    together = torch.stack(outputs)
    return float(together.mean()), float(together.var(0).mean())


@FORMS
def test_dropped_weights_keep_the_mean_and_have_the_variance_of_the_rule(attention: Form) -> None:
    """Of 6 equal weights each is dropped with p = .5: variance 6 * (1/6)^2 * p / (1 - p)."""
    torch.manual_seed(0)
    q, k, v = torch.zeros(8, 2, 40, 4), torch.zeros(8, 2, 6, 4), torch.ones(8, 2, 6, 1)
    mean, variance = mean_and_variance([attention(q, k, v, None, 0.5, True) for _ in range(50)])
    assert mean == pytest.approx(1, abs=0.01)
    assert variance == pytest.approx(1 / 6, rel=0.05)
    assert torch.allclose(attention(q, k, v, None, 0.5, False), torch.ones(8, 2, 40, 1))


@PACKED_FORMS
@pytest.mark.parametrize("cross", [False, True])
def test_dropped_weights_of_packed_sequences_too(attention: Form, cross: bool) -> None:
    torch.manual_seed(0)
    layout = Layout([6] * 30)
    q, mask = torch.zeros(180, 4), torch.ones(30, 6, dtype=torch.bool) if cross else None
    k, v = (torch.full((30, 6, 4) if cross else (180, 4), value) for value in (0.0, 1.0))
    mean, variance = mean_and_variance([attention(q, k, v, layout, mask, HEADS, 0.5, True) for _ in range(50)])
    assert mean == pytest.approx(1, abs=0.01)
    assert variance == pytest.approx(1 / 6, rel=0.05)
    assert torch.allclose(attention(q, k, v, layout, mask, HEADS, 0.5, False), torch.ones(180, 4))


Packed = tuple[tuple[Tensor, Tensor, Tensor], Layout, Tensor | None]


def packed_inputs(lengths: list[int], cross: bool, wide: int) -> Packed:
    """q, k and v, their layout and the mask of the keys; keys of the sequences themselves, or `wide` others each."""
    torch.manual_seed(0)
    q, mask = randn(sum(lengths), 8), None
    k, v = (randn(len(lengths), wide, 8) if cross else randn(sum(lengths), 8) for _ in range(2))
    if cross:
        mask = torch.rand(len(lengths), wide) < 0.7
        mask[:, 2] = True
    return (q, k, v), Layout(lengths), mask


CASES = [
    pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 2, 7, 7, 1]]),
    pytest.mark.parametrize(("cross", "wide"), [(False, 0), (True, 6), (True, LANES + 4)]),
    pytest.mark.parametrize("scores", [30, 2**20]),
]


def packed_cases(test: Callable[..., None]) -> Callable[..., None]:
    for case in CASES:
        test = case(test)
    return test


@packed_cases
def test_fast_packed_attention_that_drops_nothing_is_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], cross: bool, wide: int, scores: int
) -> None:
    monkeypatch.setattr(layouts, "BLOCK_SCORES", scores)
    draw_with(monkeypatch, keep_all)
    inputs, layout, mask = packed_inputs(lengths, cross, wide)
    above = randn(*inputs[0].shape)
    expected = values_and_gradients(plain_packed_attention, inputs, above, layout, mask, HEADS, 0.25, False)
    for p in (0.0, 0.25):
        found = values_and_gradients(fast_packed_attention, inputs, above, layout, mask, HEADS, p, True)
        torch.testing.assert_close(found, expected)


@packed_cases
def test_fast_packed_attention_drops_weights_as_the_formula_does(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], cross: bool, wide: int, scores: int
) -> None:
    """What is drawn is replaced by a rule that the formula follows, too."""
    monkeypatch.setattr(layouts, "BLOCK_SCORES", scores)
    draw_with(monkeypatch, drop_the_second_head)
    inputs, layout, mask = packed_inputs(lengths, cross, wide)
    above = randn(*inputs[0].shape)
    expected = values_and_gradients(formula_without_the_second_head, inputs, above, layout, mask)
    found = values_and_gradients(fast_packed_attention, inputs, above, layout, mask, HEADS, 0.25, True)
    torch.testing.assert_close(found, expected)


def formula_without_the_second_head(q: Tensor, k: Tensor, v: Tensor, layout: Layout, key_mask: Tensor | None) -> Tensor:
    if key_mask is None:
        k, v, key_mask = layout.pad(k), layout.pad(v), layout.mask
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (layout.pad(q), k, v))
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~key_mask[:, None, None], float("-inf"))
    factor = torch.tensor([4.0, 0.0], dtype=q.dtype)
    weights = scores.softmax(-1) * factor[None, :, None, None]
    return layout.pack((weights @ v).transpose(1, 2).flatten(2))
