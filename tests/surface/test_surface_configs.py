"""Shipped configurations and recipes: every key is there, with the value it had."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from calls import CONFIGS, resolved
from figures import golden

EXPECTED = golden("configs.json")


def losses(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """What of the old value the new one no longer says."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key not in new:
                yield f"{place}.{key} is gone"
            else:
                yield from losses(value, new[key], f"{place}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (value, other) in enumerate(zip(old, new, strict=True)):
            yield from losses(value, other, f"{place}.{number}")
    elif type(old) is not type(new) or old != new:
        yield f"{place} was {old!r} and is {new!r}"


@pytest.mark.parametrize("name", EXPECTED)
def test_every_value_is_what_it_was(name: str) -> None:
    assert not list(losses(EXPECTED[name], resolved(*CONFIGS[name])))


def test_the_comparison_sees_every_kind_of_loss() -> None:
    old = {"a": {"b": 1, "c": [{"d": 1.0}, 2]}, "e": None}
    assert not list(losses(old, {"a": {"b": 1, "c": [{"d": 1.0, "new": 0}, 2]}, "e": None, "f": 3}))
    assert len(list(losses(old, {"a": {"b": True, "c": [{"d": 1}, 3]}}))) == 4
    assert list(losses(old, {"a": {"b": 1, "c": [{"d": 1.0}]}, "e": None}))
