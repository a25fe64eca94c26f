"""Packed and padded forms of the same sequences."""

from __future__ import annotations

import pytest
import torch

from mesm.model import Layout


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
    extended = Layout([2, 3]).with_prefix()
    assert (extended.lengths, extended.width) == ((3, 4), 4)


@pytest.mark.parametrize("lengths", [[0, 2], [3, 6]])
def test_lengths_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths must be 1 to 5"):
        Layout(lengths, width=5)
