"""Numbers of less precision are used where they are asked for, and only there."""

from __future__ import annotations

import pytest
import torch

from mesm.pipeline.precision import half_precision, product_precision


@pytest.mark.parametrize(
    ("precision", "setting"), [("fp32", "highest"), ("bf16", "highest"), ("bf16-products", "medium")]
)
def test_products_are_rounded_inside_only(precision: str, setting: str) -> None:
    with product_precision(precision):
        assert torch.get_float32_matmul_precision() == setting
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ZeroDivisionError), product_precision(precision):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "highest"


def test_rounded_products_stay_float32_and_close() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(64, 256), torch.randn(256, 64)
    with product_precision("bf16-products"):
        rounded = a @ b
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, a @ b, atol=0.5, rtol=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16-products", "bf16"])
def test_only_half_precision_changes_the_type(precision: str) -> None:
    with half_precision(torch.device("cpu"), precision):
        dtype = torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3)).dtype
    assert dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
