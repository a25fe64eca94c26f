"""What rounding allows: numbers that are sums of cancelling terms, judged by how far rounding moves our own.

The published numbers were computed in float32, and so are ours. The gradient of a single slope, or the fourth step of
AdamW, which divides by gradients that are nearly 0, may then differ by more than its tolerance though the formula is
the same: by how much depends on the processor. A step may even take another branch: a rectifier opens, or a span
answers for another window. So where something is out of tolerance, ours is computed again, every weight moved by one
unit in its last place. The range of the results is what rounding does to this very number, and a published one that
lies in it, or near it, agrees. All of them follow our formulas, through the operators that are compared: a wrong one
moves them together, away from the published number. (float64 would take the plain forms of our kernels, and forgive
what is wrong with the fast ones.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

AGAIN = 8
"""How often ours is computed again at most. A branch that one result in four takes is met in nine cases of ten."""
SLACK = 1.0
"""How far beyond the range of our results the published number may lie, as a multiple of the range."""
MOST = 0.02
"""Share of a number up to which that slack reaches."""
NOISE = 1e-5
"""Norms of gradients below it are 0 in exact arithmetic, and rounding noise on both sides."""


@dataclass(frozen=True)
class Scalar:
    """A number of ours and the published one."""

    name: str
    ours: float
    published: float
    tolerance: float
    """Relative."""

    def difference(self, found: Sequence[float]) -> float:
        """Relative difference of the published number from the range of what we found, some slack allowed for.

        With one result that is the difference from it. Not a number where one of them is none.
        """
        if not all(map(math.isfinite, (*found, self.published))):
            return float("nan")
        if all(0 <= value < NOISE for value in (*found, self.published)):
            return 0.0
        low, high = min(found), max(found)
        outside = max(low - self.published, self.published - high, 0.0)
        size = max(abs(self.published), 1e-12)
        return max(outside - min(SLACK * (high - low), MOST * size), 0.0) / size


def judged(
    scalars: Sequence[Scalar], again: Callable[[int], Sequence[Scalar]], forgiving: bool = True
) -> Iterator[tuple[Scalar, float]]:
    """Yield scalars with the relative difference that is left when rounding is allowed for.

    again: computes the same numbers in the same order with weights that rounding has moved, by the number of the
    attempt; asked while one is out of tolerance. forgiving: False where it is known already that a formula differs.
    """
    found = [[scalar.ours] for scalar in scalars]
    for attempt in range(AGAIN if forgiving else 0):
        if all(s.difference(values) <= s.tolerance for s, values in zip(scalars, found, strict=True)):
            break
        for scalar, values, other in zip(scalars, found, again(attempt), strict=True):
            assert scalar.name == other.name
            values.append(other.ours)
    yield from ((scalar, scalar.difference(values)) for scalar, values in zip(scalars, found, strict=True))


@torch.no_grad()
def move_by_rounding(network: nn.Module, seed: int) -> None:
    """Move every parameter up or down by one unit in its last place."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.copy_(torch.nextafter(parameter, _somewhere(parameter, generator)))


def _somewhere(parameter: Tensor, generator: torch.Generator) -> Tensor:
    up = torch.rand(parameter.shape, generator=generator) < 0.5
    return torch.where(up, math.inf, -math.inf).to(parameter.dtype)
