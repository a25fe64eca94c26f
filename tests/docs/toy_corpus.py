"""The corpus of `tiny_training` as the guides' readers have one: CLIP frames, word vectors, annotations of Charades."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_training import make_corpus, write_streams, write_word_table

from mesm.pipeline.data.folders import find_features

RECORDS = "records"


def make_toy_corpus(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Write `features` and `annotations` below `folder`; returns the queries by split."""
    make_corpus(folder, videos=8, test_videos=3)
    features = folder / "features"
    stream = find_features(features, "first")
    write_streams(features, {key: (stream.read(key)["features"],) for key in stream}, names=("clip",))  # type: ignore[misc]
    write_word_table(features)
    records = {}
    for split in ("train", "test"):
        path = folder / "annotations" / f"{split}.jsonl"
        records[split] = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
    return records


def write_charades(folder: Path, records: dict[str, list[dict[str, Any]]]) -> None:
    """Write the records in the layout of Charades-STA."""
    for split, queries in records.items():
        lines, durations = [], {}
        for query in queries:
            ((start, end),) = query["moments"]
            lines.append(f"{query['video_id']} {start} {end}##{query['query']}\n")
            durations[query["video_id"]] = query["duration_s"]
        (folder / f"charades_sta_{split}.txt").write_text("".join(lines))
        table = "".join(f"{video},{duration}\n" for video, duration in durations.items())
        (folder / f"Charades_v1_{split}.csv").write_text(f"id,length\n{table}")
