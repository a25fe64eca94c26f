"""Small files of facts: a changed bit is found, those of earlier versions are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesm.datasets.plain_text import parse_json
from mesm.pipeline.run.text_files import publish_facts, read_facts

FACTS = {"temperature": 1.25, "split": "val, held back", "epoch": None, "folders": ["a-0123", "b-4567"]}


def test_facts_come_back(tmp_path: Path) -> None:
    publish_facts(tmp_path / "facts.json", FACTS)
    assert read_facts(tmp_path / "facts.json") == FACTS
    (tmp_path / "earlier.json").write_text(json.dumps(FACTS))
    assert read_facts(tmp_path / "earlier.json") == FACTS


def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    publish_facts(file, FACTS)
    whole = file.read_bytes()
    found = 0
    for place in range(len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            file.write_bytes(content)
            try:
                read = read_facts(file)
            except ValueError:
                found += 1
            else:
                assert read == FACTS, content
    assert found > 7 * len(whole)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a": 1', '{"sha256": null, "a": 1}x', "[" * 100_000])
def test_what_holds_no_facts_is_a_value_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "facts.json").write_text(text)
    with pytest.raises(ValueError):
        read_facts(tmp_path / "facts.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[[1, 2]", "NaN,", "'a'"])
def test_json_that_is_none_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
