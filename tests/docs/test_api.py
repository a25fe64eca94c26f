"""The examples of the API page run and print what stands there."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest
import torch
from guides import DOCS, blocks_of
from tiny_extraction import VIDEOS, make_videos

PAGE = DOCS / "api.md"
SPLITS = {"train": (0, 1, 2, 3), "val": (4, 5), "test": (6, 7)}


def examples() -> doctest.DocTest:
    """The page's Python blocks as one test, in which lines have the page's numbers."""
    lines = [""] * len(PAGE.read_text(encoding="utf-8").splitlines())
    for block in blocks_of(PAGE):
        assert block.language == "python"
        lines[block.line - 1 : block.line - 1 + block.text.count("\n")] = block.text.splitlines()
    found = doctest.DocTestParser().get_doctest("\n".join(lines) + "\n", {}, PAGE.name, str(PAGE), 0)
    assert len(found.examples) > 50
    return found


def make_films(folder: Path) -> None:
    """Write films, and one sentence about each."""
    make_videos(folder / "videos")
    assert sum(map(len, SPLITS.values())) == VIDEOS
    (folder / "annotations").mkdir()
    for split, numbers in SPLITS.items():
        records = [
            {
                "query_id": number,
                "video_id": f"film{number}",
                "query": f"a picture drifts to the {('left', 'right')[number % 2]}",
                "moments": [[0.2 * (number % 3), 1.0 + 0.2 * (number % 3)]],
                "duration_s": 2.0 + 0.3 * number,
            }
            for number in numbers
        ]
        (folder / "annotations" / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_examples_run_and_print_what_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_films(tmp_path)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shown: list[str] = []
    try:
        result = doctest.DocTestRunner(verbose=False).run(examples(), out=shown.append)
    finally:
        torch.set_num_threads(threads)
    assert not result.failed, "".join(shown)
