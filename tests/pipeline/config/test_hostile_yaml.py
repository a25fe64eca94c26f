"""Configurations made to do harm, or that are none: a message within moments, and little memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesm.pipeline.config.errors import ConfigError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.yaml_text import MOST_VALUES, YamlTextError, read_yaml

LONGEST_MESSAGE = 5_000


def aliases(depth: int) -> str:
    """400 bytes that stand for 10 ** depth values."""
    rows = [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join(["a0: &a0 [x,x,x,x,x,x,x,x,x,x]", *rows])


def merges(depth: int) -> str:
    rows = [f"c{i}: &c{i} {{<<: [{','.join([f'*c{i - 1}'] * 10)}]}}" for i in range(1, depth)]
    return "\n".join(["c0: &c0 {b: 1}", *rows])


BOMBS = {
    "aliases": aliases(9),
    "merged sections": merges(9),
    "a long text again and again": f"a: &a {'x' * 9000}\nb: [{','.join(['*a'] * 900)}]",
    "an alias inside itself": "a: &a [*a]",
    "brackets": "[" * 3000,
    "braces": "{" * 3000,
    "half a character": 'name: "\\ud800"',
    "a day that is none": "name: 2001-13-45",
    "a number of 5,000 digits": f"train: {{seed: 1{'0' * 5000}}}",
    "a tag that does not fit": "train: !!bool x",
    "another tag": "train: !!timestamp x",
    "an empty number": "train: !!int ''",
    "code": "train: !!python/object/apply:os.system [true]",
    "a key that is a list": "? [1, 2]\n: 3",
    "more than a configuration": "x" * 2**20 + "x",
    "nothing but noise": "\x07\x1b[31m",
    "a base with a zero in its name": 'base: "a\\0b.yaml"',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_in_few_words(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[bomb])
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(str(caught.value)) < LONGEST_MESSAGE


@pytest.mark.parametrize("bomb", ["brackets", "an alias inside itself", "a day that is none", "an empty number"])
def test_so_are_those_of_an_override(bomb: str) -> None:
    with pytest.raises(ConfigError, match="the value is not valid YAML") as caught:
        load_config("demo", [f"train={BOMBS[bomb]}"])
    assert len(str(caught.value)) < LONGEST_MESSAGE


def test_large_wrong_values_and_keys_are_shown_in_short(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    values = ", ".join(["x"] * 9000)
    path.write_text(f"train: [{values}]\ndataset: {{reader: [{values}]}}\n{'k' * 900}: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(str(caught.value)) < LONGEST_MESSAGE
    path.write_text("\n".join(f"key{number}: 1" for number in range(5000)))
    with pytest.raises(ConfigError, match="and 4900 more") as caught:
        load_config(path)


def test_keys_that_are_no_texts_become_texts(tmp_path: Path) -> None:
    path = tmp_path / "dates.yaml"
    path.write_text("features:\n  video:\n  - options: {2001-01-01: {1: 2}}\n")
    assert load_config(path).features.video[0].options == {"2001-01-01": {"1": 2}}


def test_ordinary_aliases_stay_possible() -> None:
    content = read_yaml("a: &a {b: [1, 2]}\nc: *a\nd:\n  <<: *a\n  e: 3\n")
    assert content == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": {"b": [1, 2], "e": 3}}
    assert content["a"] is not content["c"]
    assert content["a"]["b"] is not content["c"]["b"]
    with pytest.raises(YamlTextError, match=f"more than {MOST_VALUES:,} values"):
        read_yaml(f"[{','.join(['1'] * (MOST_VALUES + 1))}]")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.encoder_layers=1000", "at most 64"),
        ("model.dim=1000000000000", "at most 65536"),
        ("train.seed=-1", "at least 0"),
        ("train.seed=1e30", "a whole number"),
        ("extract.timeout_s=1e300", "at most"),
    ],
)
def test_numbers_that_nothing_can_be_built_from_are_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config("demo", [override])
