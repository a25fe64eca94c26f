"""Commands, their arguments and options: none is lost, renamed, or needed where it was not."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from calls import command, commands
from figures import golden

EXPECTED = golden("commands.json")


@cache
def now() -> dict[str, Any]:
    return commands()


@pytest.mark.parametrize("words", EXPECTED)
def test_arguments_are_what_they_were(words: str) -> None:
    assert words in now(), f"there is no command {words!r} any more"
    found, expected = now()[words]["arguments"], EXPECTED[words]["arguments"]
    for ours, theirs in zip(found, expected, strict=False):
        # An argument that took one value may take several now, and one that was needed may be left out.
        assert ours["values"] in (theirs["values"], -1)
        assert theirs["required"] or not ours["required"]
        assert {**theirs, **{name: ours[name] for name in ("values", "required")}} == ours
    assert len(found) >= len(expected)
    assert not [argument for argument in found[len(expected) :] if argument["required"]]


@pytest.mark.parametrize("words", EXPECTED)
def test_options_are_what_they_were(words: str) -> None:
    found, expected = now()[words]["options"], EXPECTED[words]["options"]
    by_name = {name: option for option in found.values() for name in option["names"]}
    for option in expected.values():
        for name in option["names"]:
            assert name in by_name, f"{words!r} has no {name} any more"
            assert {**by_name[name], "names": None} == {**option, "names": None}, name
    old = {name for option in expected.values() for name in option["names"]}
    assert not [name for name, option in by_name.items() if option["required"] and name not in old]


@pytest.mark.parametrize("words", EXPECTED)
def test_help_shows_every_option_and_command(words: str) -> None:
    path = words.split()
    shown = command(*path, "--help")
    assert shown.startswith(" ".join(["Usage: mesm-pipeline", *path]))
    below = [other.split()[-1] for other in EXPECTED if other and other.split()[:-1] == path]
    for name in (*EXPECTED[words]["options"], *below):
        assert name in shown.replace(",", " ").split()
