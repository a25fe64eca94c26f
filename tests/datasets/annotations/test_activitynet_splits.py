"""ActivityNet-CG and ActivityNet-CD, by small files in their published layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesm.datasets.annotations.registry import READERS, read_annotations
from mesm.datasets.errors import AnnotationError

VIDEO = {"sentences": [" A man runs.", "He stops."], "timestamps": [[0.0, 4.5], [4.0, 31.0]], "duration": 30.0}


def write(folder: Path, name: str, **more: object) -> None:
    (folder / name).write_text(json.dumps({"v_one": {**VIDEO, **more}}))


@pytest.mark.parametrize(
    ("split", "fields"),
    [
        ("train", {}),
        ("test_trivial", {}),
        ("novel_composition", {"novels": [["man", "run"], ["stop"]]}),
        ("novel_word", {"news": ["run", "stop"]}),
    ],
)
def test_activitynet_cg_is_read(split: str, fields: dict[str, object], tmp_path: Path) -> None:
    write(tmp_path, f"{split}.json", **fields)
    first, second = read_annotations("activitynet-cg", tmp_path, split)
    assert (first.video_id, first.query, first.duration_s) == ("v_one", "A man runs.", 30.0)
    assert (second.query_id, second.moments) == (1, ((4.0, 30.0),))


@pytest.mark.parametrize("split", ["train", "val", "test_iid", "test_ood"])
def test_activitynet_cd_is_read(split: str, tmp_path: Path) -> None:
    write(tmp_path, f"anet_{split}.json")
    assert [a.moments for a in read_annotations("activitynet-cd", tmp_path, split)] == [((0.0, 4.5),), ((4.0, 30.0),)]
    other = next(s for s in READERS["activitynet-cd"].splits if s != split)
    with pytest.raises(AnnotationError, match=f"expected anet_{other}.json"):
        read_annotations("activitynet-cd", tmp_path, other)
