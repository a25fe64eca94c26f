"""Golden files, and figures that are compared with them: bit for bit on a machine that computes the same bits."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from calls import one_thread

GOLDEN = Path(__file__).parent / "golden"
ENCODERS_GOLDEN = Path(__file__).parents[1] / "extractors" / "golden" / "preprocessing.json"
RELATIVE = 1e-5


@cache
def golden(name: str) -> Any:
    content = (GOLDEN / name).read_bytes()
    return json.loads(gzip.decompress(content) if name.endswith(".gz") else content)


@one_thread()
@torch.no_grad()
def machine() -> dict[str, str]:
    """The version of torch, and a hash of what this machine makes of a few products, functions and draws."""
    draw = np.random.default_rng(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.from_numpy(draw.standard_normal(shape, dtype=np.float32))

    x, q, k = some(57, 67), some(3, 4, 9, 16), some(3, 4, 13, 16)
    torch.manual_seed(0)
    results = [
        *(some(rows, inner) @ some(inner, 64) for rows, inner in ((3, 5), (64, 64), (57, 300))),
        *(f(x) for f in (torch.exp, torch.tanh, torch.sigmoid, F.softplus, F.gelu, torch.sum, torch.linalg.norm)),
        x.log_softmax(-1),
        F.layer_norm(x, (67,)),
        F.scaled_dot_product_attention(q, k, k),
        torch.nn.GRU(67, 8, bidirectional=True)(x[None])[0],
        torch.randn(50),
        torch.rand(50),
    ]
    digest = hashlib.sha256(b"".join(result.numpy().tobytes() for result in results))
    return {"torch": torch.__version__, "bits": digest.hexdigest()}


@cache
def computes_the_same_bits() -> bool:
    return machine() == golden("machine.json")


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested dictionaries and lists, by its place."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def assert_figures(found: Any, expected: Any, absolute: float = 0.0, relative: float = RELATIVE) -> None:
    """Every expected figure was found: equal where the bits are, else within `relative` of it, or `absolute`."""
    wanted, here = dict(leaves(expected)), dict(leaves(found))
    here = {place: here.get(place, "missing") for place in wanted}
    if computes_the_same_bits():
        assert here == wanted
    else:
        for place, value in wanted.items():
            close = pytest.approx(value, rel=relative, abs=absolute) if isinstance(value, float) else value
            assert here[place] == close, place
