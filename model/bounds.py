"""What the numbers of a network's configuration may be; the pipeline checks them."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

AtLeastOne = Annotated[int, Ge(1), Le(65536)]
Layers = Annotated[int, Ge(1), Le(64)]
Probability = Annotated[float, Ge(0), Le(0.99)]
Weight = Annotated[float, Ge(0)]
Positive = Annotated[float, Ge(1e-6)]
Overlap = Annotated[float, Ge(-1), Le(1)]


def width_problems(dim: int, heads: int) -> list[str]:
    """Say why a network cannot have this width: position codes need a multiple of 4, attention one of its heads."""
    if dim % heads or dim % 4:
        return [f"dim must be a multiple of 4 and of heads, found dim {dim} and heads {heads}"]
    return []
