"""Which predicted span answers for which window."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mesm.model.matcher import match
from mesm.model.spans import generalised_iou, spans_to_windows, windows_to_spans

WEIGHTS = (10.0, 1.0, 4.0)


def predictions(n: int, queries: int = 10) -> tuple[Tensor, Tensor]:
    torch.manual_seed(n)
    return torch.randn(n, queries, 2), torch.rand(n, queries, 2) * 0.5 + 0.1


def some_windows(n: int, most: int) -> tuple[Tensor, tuple[int, ...]]:
    windows = torch.rand(n, most, 2).sort(-1).values
    return windows, tuple(1 + i % most for i in range(n))


def match_one_layer(
    logits: Tensor, spans: Tensor, windows: Tensor, counts: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    query, span, window = (part[0] for part in match(logits[None], spans[None], windows, counts, *WEIGHTS))
    return query, span, window


def cost(logits: Tensor, spans: Tensor, window: Tensor) -> Tensor:
    distance = (spans - windows_to_spans(window)).abs().sum(-1)
    overlap = generalised_iou(spans_to_windows(spans), window)
    return 10 * distance - overlap - 4 * logits.softmax(-1)[..., 0]


def test_one_query_is_matched_as_in_the_batch() -> None:
    logits, spans = predictions(6)
    windows, counts = some_windows(6, 3)
    query, span, window = match_one_layer(logits, spans, windows, counts)
    for i in range(6):
        alone = match_one_layer(logits[i : i + 1], spans[i : i + 1], windows[i : i + 1], counts[i : i + 1])
        assert torch.equal(alone[1], span[query == i])
        assert torch.equal(alone[2], window[query == i])


def test_a_single_window_goes_where_the_hungarian_algorithm_sends_it() -> None:
    logits, spans = predictions(8)
    windows, counts = some_windows(8, 1)
    query, span, window = match_one_layer(logits, spans, windows, counts)
    assert query.tolist() == list(range(8))
    assert window.tolist() == [0] * 8
    for i in range(8):
        table = cost(logits[i], spans[i], windows[i, 0])[:, None].numpy()
        assert span[i] == linear_sum_assignment(table)[0][0]


def test_several_windows_are_assigned_at_the_least_total_cost() -> None:
    logits, spans = predictions(3, queries=4)
    windows = torch.rand(3, 3, 2).sort(-1).values
    query, span, window = match_one_layer(logits, spans, windows, (3, 3, 3))
    for i in range(3):
        table = torch.stack([cost(logits[i], spans[i], w) for w in windows[i]], dim=1)
        best = min(float(table[list(rows), range(3)].sum()) for rows in itertools.permutations(range(4), 3))
        chosen = query == i
        assert sorted(window[chosen].tolist()) == [0, 1, 2]
        assert abs(float(table[span[chosen], window[chosen]].sum()) - best) < 1e-5


def test_padding_windows_are_never_matched() -> None:
    logits, spans = predictions(2)
    windows = torch.tensor([[[0.1, 0.2], [0.0, 1.0]], [[0.3, 0.9], [0.5, 0.6]]])
    query, _, window = match_one_layer(logits, spans, windows, (1, 2))
    assert query.tolist() == [0, 1, 1]
    assert window[0] == 0
    assert sorted(window[1:].tolist()) == [0, 1]


def test_more_windows_than_spans_leave_windows_over() -> None:
    logits, spans = predictions(1, queries=2)
    windows, _ = some_windows(1, 5)
    query, _, window = match_one_layer(logits, spans, windows, (5,))
    assert len(query) == 2
    assert len(set(window.tolist())) == 2


@pytest.mark.parametrize("most", [1, 3])
def test_layers_are_matched_by_themselves(most: int) -> None:
    layers = [predictions(5), predictions(6)]
    logits, spans = (torch.stack([layer[part][:5] for layer in layers]) for part in (0, 1))
    windows, counts = some_windows(5, most)
    together = match(logits, spans, windows, counts, *WEIGHTS)
    for number in range(2):
        for whole, part in zip(together, match_one_layer(logits[number], spans[number], windows, counts), strict=True):
            assert torch.equal(whole[number], part)
