"""Numbers of less precision are used where they are asked for, and only there."""

from __future__ import annotations

import pytest
import torch

from mesm.pipeline.run.precision import half_precision


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_only_half_precision_changes_the_type(precision: str, expected: torch.dtype) -> None:
    with half_precision(torch.device("cpu"), precision):
        assert torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3)).dtype == expected
