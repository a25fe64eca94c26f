"""The sides of EMB: the layers in which frames, proposals, or a narrative meet a query.

Source: EMB, `Raymond-sci/EMB` at a81e57a.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mesm.model.layers.boundaries import BoundaryPredictor, Fuser
from mesm.model.layers.guided import FrameLayer, GuidedLayer, PlainLayer

Size = tuple[int, int, float]
"""Width, heads and dropout."""


class FrameSide(nn.Module):
    """The layers in which frames and words meet."""

    def __init__(self, size: Size, frames: type[PlainLayer] = FrameLayer) -> None:
        super().__init__()
        self.f2f, self.w2w = frames(*size), PlainLayer(*size)
        self.f2w, self.w2f = frames(*size), PlainLayer(*size)
        self.v2v, self.vq2q = frames(*size), PlainLayer(*size)


class ProposalSide(nn.Module):
    """The layers in which proposals and words meet, which train the ranking and reach no answer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.p2p, self.p2w = GuidedLayer(*size, 1), GuidedLayer(*size, 1)
        self.w2p, self.s2s = PlainLayer(*size), GuidedLayer(*size, 1)
        self.pq2q = PlainLayer(*size)


@dataclass(frozen=True)
class Asked:
    """The queries of a batch, projected, and which rows of their videos are valid."""

    words: Tensor
    """(N, W, D), with positions."""
    word_mask: Tensor
    """(N, W) bool."""
    videos: Tensor
    """(N,) int64, the video of each query."""
    mask: Tensor
    """(N, L) bool."""
    lengths: tuple[int, ...]
    """Valid rows of each."""


class Paragraph(nn.Module):
    """The layers that ask the narrative alone."""

    def __init__(self, size: Size, guided: bool) -> None:
        super().__init__()
        self.frame_side = FrameSide(size, FrameLayer if guided else PlainLayer)
        self.fuser, self.highlight_head = Fuser(size[0], size[2]), nn.Linear(size[0], 1)
        self.predictor = BoundaryPredictor(size[0])


def initialise(network: nn.Module) -> None:
    """Xavier's uniform rule for every linear layer and convolution, and biases of 0; LSTMs stay torch's."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
