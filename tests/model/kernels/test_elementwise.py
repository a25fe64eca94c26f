"""Dropout, PReLU and attention in the forms that the CPU runs fast."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mesm.model import layouts
from mesm.model.kernels.attention import attention, packed_attention
from mesm.model.kernels.dropout import add_dropped, dropout, prelu
from mesm.model.kernels.feed_forward import feed_forward
from mesm.model.layouts import Layout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.001, 0.999])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    x = torch.stack([dropout(torch.ones(100, 500), p, True) for _ in range(60)])
    assert float((x == 0).float().mean()) == pytest.approx(min(p, 255 / 256), abs=0.003)
    assert float(x.mean()) == pytest.approx(1, abs=0.05 if p > 0.99 else 0.01)
    for one in x:
        kept = one[one > 0]
        assert len(kept.unique()) == 1
        assert abs(float(kept[0]) * (1 - p) - 1) < 0.05 or p in (0.001, 0.999)


def test_dropout_is_determined_by_the_seed() -> None:
    x = torch.randn(64, 65)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(x, 0.5, True)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_two_draws_of_one_step_differ() -> None:
    x = torch.ones(64, 64)
    assert not torch.equal(dropout(x, 0.5, True), dropout(x, 0.5, True))


def test_dropout_drops_the_gradient_where_it_dropped_the_value() -> None:
    x = torch.ones(50, 51, requires_grad=True)
    y = dropout(x, 0.3, True)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_dropout_does_nothing_outside_training() -> None:
    x = torch.randn(3, 4)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
    assert dropout(torch.empty(0, 4), 0.5, True).shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prelu_equals_torch_and_so_do_its_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.randn(40, 30, dtype=dtype)
    gradient = torch.randn(40, 30, dtype=dtype)
    results = []
    for function in (prelu, F.prelu):
        x, slope = values.clone().requires_grad_(), torch.tensor([0.25], dtype=dtype, requires_grad=True)
        y = function(x, slope)
        y.backward(gradient)
        results.append((y.detach(), x.grad, slope.grad))
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_the_formula(masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    mask = torch.rand(2, 1, 5, 7) < 0.6
    mask[..., 0] = True
    scores = q @ k.transpose(-2, -1) / 8**0.5
    if masked:
        scores = scores.masked_fill(~mask, float("-inf"))
    expected = scores.softmax(-1) @ v
    assert torch.allclose(attention(q, k, v, mask if masked else None, 0.1, False), expected, atol=1e-6)
    almost_none = attention(q, k, v, mask if masked else None, 1e-9, True)
    assert torch.allclose(almost_none, expected, atol=1e-6)


def test_attention_drops_weights_only_when_training() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 2, 4, 8), torch.randn(2, 2, 6, 8), torch.ones(2, 2, 6, 3)
    assert torch.allclose(attention(q, k, v, None, 0.5, False), torch.ones(2, 2, 4, 3))
    dropped = attention(q, k, v, None, 0.5, True)
    assert not torch.allclose(dropped, torch.ones(2, 2, 4, 3))


@pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 2, 7, 7, 1]])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("scores", [30, 2**20])
@pytest.mark.parametrize("wide", [6, 20])
def test_packed_attention_equals_the_padded_one_with_the_same_mask(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], cross: bool, scores: int, wide: int
) -> None:
    """Also with dropout: what is drawn is replaced by a rule that both forms follow."""
    monkeypatch.setattr(layouts, "BLOCK_SCORES", scores)
    torch.manual_seed(0)
    n, heads, dim = len(lengths), 2, 8
    layout = Layout(lengths)
    q = torch.randn(sum(lengths), dim)
    key_mask = torch.rand(n, wide) < 0.7
    key_mask[:, 2] = True
    k, v = (torch.randn(n, wide, dim) if cross else torch.randn(sum(lengths), dim) for _ in range(2))
    above = torch.randn_like(q)
    for p in (0.0, 0.25):
        if p:
            monkeypatch.setattr("mesm.model.kernels.attention.draw_mask", drop_the_second_head)
        grads = []
        for form in (packed_attention, padded_attention):
            parts = [x.clone().requires_grad_() for x in (q, k, v)]
            out = form(*parts, layout, key_mask if cross else None, heads, p, True)
            out.backward(above)
            grads.append([out.detach(), *(x.grad for x in parts)])
        for ours, expected in zip(*grads, strict=True):
            assert ours is not None
            assert expected is not None
            assert float((ours - expected).abs().max()) < 5e-5


def drop_the_second_head(shape: torch.Size, p: float) -> tuple[torch.Tensor, float]:
    keep = torch.ones(*shape, dtype=torch.uint8)
    keep.view(-1, 2, *shape[-2:])[:, 1] = 0
    return keep, 4.0


def padded_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: Layout,
    key_mask: torch.Tensor | None,
    heads: int,
    p: float,
    training: bool,
) -> torch.Tensor:
    if key_mask is None:
        k, v, key_mask = layout.pad(k), layout.pad(v), layout.mask
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (layout.pad(q), k, v))
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~key_mask[:, None, None], float("-inf"))
    factor = torch.tensor([4.0, 0.0] if p else [1.0, 1.0])
    weights = scores.softmax(-1) * factor[None, :, None, None]
    return layout.pack((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("slope_value", [0.3, 2.0, 0.0, -0.3])
def test_feed_forward_equals_the_formula(monkeypatch: pytest.MonkeyPatch, p: float, slope_value: float) -> None:
    """Dropout draws by a rule that the formula can follow: every third entry is dropped."""
    torch.manual_seed(0)

    def every_third(shape: torch.Size, p: float) -> tuple[torch.Tensor, float]:
        keep = (torch.arange(int(np.prod(tuple(shape)))) % 3 > 0).to(torch.uint8)
        return keep.view(*shape), 1.5

    def drop(x: torch.Tensor) -> torch.Tensor:
        keep, factor = every_third(x.shape, p)
        return x * keep * factor if p else x

    monkeypatch.setattr("mesm.model.kernels.feed_forward.draw_mask", every_third)
    monkeypatch.setattr("mesm.model.kernels.dropout.draw_mask", every_third)
    monkeypatch.setattr("mesm.model.kernels.feed_forward.BLOCK", 3)
    sizes = ((7, 4), (7, 4), (6, 4), (6,), (1,), (4, 6), (4,))
    parts = [torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in sizes]
    residual, x, weight1, bias1, slope, weight2, bias2 = parts
    with torch.no_grad():
        slope.fill_(slope_value)
    ours = feed_forward(*parts, p, True)
    expected = residual + drop(F.linear(drop(F.prelu(F.linear(x, weight1, bias1), slope)), weight2, bias2))
    assert torch.allclose(ours, expected)
    with torch.no_grad():
        assert torch.allclose(feed_forward(*parts, p, True), expected)
    above = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad(ours, parts, above), torch.autograd.grad(expected, parts, above), strict=True
    ):
        assert torch.allclose(one, other)


def test_feed_forward_trains_in_half_precision() -> None:
    torch.manual_seed(0)
    sizes = ((7, 4), (7, 4), (6, 4), (6,), (1,), (4, 6), (4,))
    parts = [torch.rand(*size, requires_grad=True) for size in sizes]
    grads = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = feed_forward(*parts, 0.0, True)
        grads.append(torch.autograd.grad(out.float().sum(), parts))
    for half, full in zip(*grads, strict=True):
        assert torch.allclose(half, full, rtol=0.05)
    assert not torch.equal(grads[0][1], grads[1][1])


def test_add_dropped_is_a_sum_with_dropout() -> None:
    torch.manual_seed(0)
    residual, x = torch.randn(40, 30, requires_grad=True), torch.ones(40, 30, requires_grad=True)
    y = add_dropped(residual, x, 0.25, True)
    y.sum().backward()
    dropped = (y - residual).detach()
    assert x.grad is not None
    assert residual.grad is not None
    assert torch.allclose(x.grad, dropped, atol=1e-6)
    assert torch.equal(residual.grad, torch.ones(40, 30))
    assert 0.2 < float((dropped.abs() < 1e-6).float().mean()) < 0.3
    assert torch.equal(add_dropped(residual, x, 0.25, False), residual + x)
