"""Packed and padded forms of the same sequences."""

from __future__ import annotations

import pytest
import torch

from mesm.model import layouts
from mesm.model.layouts import Layout, prepend


def test_padding_and_packing_are_inverse() -> None:
    layout = Layout([3, 1, 4])
    packed = torch.randn(8, 5)
    padded = layout.pad(packed)
    assert padded.shape == (3, 4, 5)
    assert torch.equal(padded[1, 1:], torch.zeros(3, 5))
    assert torch.equal(padded[2], packed[4:])
    assert torch.equal(layout.pack(padded), packed)


@pytest.mark.parametrize("lengths", [[3, 1, 4], [2, 2]])
def test_gradients_flow_through_valid_positions_only(lengths: list[int]) -> None:
    layout = Layout(lengths, width=5)
    packed = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    padded = torch.randn(len(lengths), 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layout.pad, (packed,))
    assert torch.autograd.gradcheck(layout.pack, (padded,))


def test_sequences_of_full_width_are_not_copied() -> None:
    layout = Layout([4, 4])
    packed = torch.randn(8, 3)
    assert layout.full
    assert layout.pad(packed).data_ptr() == packed.data_ptr()


def test_positions_count_from_one_in_every_sequence() -> None:
    layout = Layout([2, 3])
    assert layout.position.tolist() == [1, 2, 1, 2, 3]
    assert layout.length_of_row.tolist() == [2, 2, 3, 3, 3]


def test_selected_sequences_repeat_rows() -> None:
    layout = Layout([2, 3])
    chosen, rows = layout.select([1, 0, 1])
    assert chosen.lengths == (3, 2, 3)
    assert chosen.width == layout.width
    assert rows.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]


def test_a_prefix_lengthens_every_sequence() -> None:
    extended, first, others = Layout([2, 3]).with_prefix()
    assert (extended.lengths, extended.width) == ((3, 4), 4)
    assert (first.tolist(), others.tolist()) == ([0, 3], [1, 2, 4, 5, 6])
    row, packed = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((2,), (5, 2)))
    longer = extended.pad(prepend(row, packed, first, others))
    assert torch.equal(longer[:, 0], row.expand(2, -1))
    assert torch.equal(longer[0, 1:3], packed[:2])
    assert torch.autograd.gradcheck(prepend, (row, packed, first, others))


def test_blocks_hold_every_sequence_once_and_few_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "BLOCK_SCORES", 100)
    layout = Layout([3, 3, 5, 2, 9, 1])
    packed = torch.arange(float(sum(layout.lengths)))[:, None]
    for keys in (None, 4):
        blocks = layout.blocks(2, keys)
        assert [i for block in blocks for i in range(block.first, block.last)] == list(range(6))
        assert torch.equal(torch.cat([packed[block.start : block.stop] for block in blocks]), packed)
        assert len(blocks) > 1
        for block in blocks:
            longest = max(layout.lengths[block.first : block.last])
            count = block.last - block.first
            assert count == 1 or count * 2 * longest * (keys or longest) <= 100


def test_long_sequences_are_attended_to_alone_by_themselves_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "LONG", 5)

    def runs(keys: int | None) -> list[tuple[int, int]]:
        return [(block.first, block.last) for block in Layout([3, 5, 9, 2, 2]).blocks(2, keys)]

    assert runs(None) == [(0, 1), (1, 2), (2, 3), (3, 5)]
    assert runs(4) == [(0, 5)]


@pytest.mark.parametrize("lengths", [[4, 4, 4], [3, 5, 1]])
def test_heads_of_a_block_are_split_and_merged(lengths: list[int]) -> None:
    layout, heads = Layout(lengths), 3
    packed = torch.randn(sum(lengths), 6)
    (block,) = layout.blocks(heads)
    parts = block.split_heads(packed, heads)
    for number, rows in enumerate(packed.split(lengths)):
        assert torch.equal(parts[number, :, : len(rows)], rows.view(-1, heads, 2).transpose(0, 1))
        assert (parts[number, :, len(rows) :] == parts[number, :, :1]).all()
    assert torch.equal(block.merge_heads(parts), packed)


def test_leading_sequences_and_the_sequence_of_each_row() -> None:
    layout = Layout([2, 1, 3], width=4)
    assert layout.leading(3) is layout
    assert (layout.leading(2).lengths, layout.leading(2).width) == ((2, 1), 4)
    assert layout.sequence_of_row.tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("lengths", [[0, 2], [3, 6]])
def test_lengths_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths must be 1 to 5"):
        Layout(lengths, width=5)
