"""What rounding allows: scalars that are sums of cancelling terms, judged by how far float32 is from float64 here.

The published numbers were computed in float32, and so are ours. The gradient of a single slope, or the fourth step of
AdamW, which divides by gradients that are nearly 0, may then differ by more than its tolerance though the formula is
the same: by how much depends on the processor. Ours is computed in float64, too, where something is out of tolerance.
The distance of our float32 from it is what rounding does to this very number; so much, some times over, the published
one may be off. A wrong formula is as far off in float64, and fails as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

ROUNDINGS = 8.0
"""How many times our own rounding error the published number may be off beyond its tolerance."""
MOST = 0.02
"""Share of a number that is never taken for rounding."""


@dataclass(frozen=True)
class Scalar:
    """A number of ours and the published one."""

    name: str
    ours: float
    published: float
    tolerance: float
    """Relative."""

    @property
    def difference(self) -> float:
        """Relative difference."""
        return abs(self.ours - self.published) / max(abs(self.published), 1e-12) if self.off else 0.0

    @property
    def off(self) -> float:
        """Absolute difference."""
        return abs(self.ours - self.published)


def judged(scalars: list[Scalar], exactly: Callable[[], list[Scalar]]) -> Iterator[tuple[Scalar, float]]:
    """Yield scalars with the relative difference that is left when rounding is allowed for.

    exactly: computes the same numbers of ours in float64, in the same order; asked only when one is out of tolerance.
    """
    if all(scalar.difference <= scalar.tolerance for scalar in scalars):
        yield from ((scalar, scalar.difference) for scalar in scalars)
        return
    for scalar, exact in zip(scalars, exactly(), strict=True):
        assert scalar.name == exact.name
        size = max(abs(scalar.published), 1e-12)
        allowed = min(ROUNDINGS * abs(scalar.ours - exact.ours), MOST * size)
        yield scalar, max(scalar.off - allowed, 0.0) / size


@contextmanager
def double_precision() -> Iterator[None]:
    """Let everything that is made be float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def in_float64(value: Any) -> Any:
    """Return a tensor, or a dataclass of tensors, with every number in float64."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: in_float64(getattr(value, f.name)) for f in fields(value)})
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
