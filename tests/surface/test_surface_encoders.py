"""What encoders do with pixels and words: a constant that changes makes other features than those that are stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from calls import encoder_specs
from figures import ENCODERS_GOLDEN

EXPECTED = json.loads(ENCODERS_GOLDEN.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    # As JSON, since a fingerprint is made of that.
    return json.loads(json.dumps(encoder_specs(tmp_path_factory.mktemp("weights"))))


@pytest.mark.parametrize("name", EXPECTED)
def test_constants_are_what_they_were(found: dict[str, Any], name: str) -> None:
    assert found[name] == EXPECTED[name]
