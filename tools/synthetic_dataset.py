"""A seeded synthetic data set on disk in the shape of a published setting's, for the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mesm.datasets.shards.fingerprints import text_key
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline.config.load import load_config
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import WORD_TABLE_FILE
from mesm.tools.synthetic_batches import SHAPES


def write_synthetic(folder: Path, setting: str, videos: int) -> None:
    """Write annotations and feature shards of random numbers, with the lengths and queries of the setting's data."""
    config, shape = load_config(setting), SHAPES[setting]
    draw = np.random.default_rng(0)
    queries_each = len(shape.video_of_query) / len(set(shape.group_of_query))
    lines: list[dict[str, Any]] = []
    rows_of: dict[str, int] = {}
    clip_len = config.dataset.clip_len if config.dataset.clip_len > 0 else None
    words = [f"word{i}" for i in range(400)]
    for number in range(videos):
        name = f"video{number:05}_0.0_{number}.0"
        rows = rows_of[name] = int(draw.integers(min(shape.rows), max(shape.rows) + 1))
        # TACoS gives every row an equal share of a video; about 4 s there.
        duration = rows * (config.dataset.clip_len if config.dataset.clip_len > 0 else 4.0)
        for _ in range(max(1, draw.poisson(queries_each))):
            start, end = np.sort(draw.uniform(0, duration, 2))
            query = " ".join(draw.choice(words, int(draw.integers(4, shape.words - 1))))
            split = "train" if number % 10 else "val"
            lines.append(
                {
                    "query_id": len(lines),
                    "video_id": name,
                    "query": query,
                    "moments": [[start, max(end, start + 0.5)]],
                    "duration_s": duration,
                    "split": split,
                }
            )
    (folder / "annotations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    dims = {"clip": 512, "slowfast-8x8-r50": 2304, "vgg16": 4096, "c3d": 4096}
    for stream in config.features.video:
        spec = {"encoder": stream.encoder, "dim": dims[stream.encoder], "synthetic": True}
        with FeatureFolder.create_or_open(folder / "features", stream.encoder, spec).writer() as writer:
            for name, rows in rows_of.items():
                features = draw.standard_normal((rows, dims[stream.encoder]), np.float32).astype(np.float16)
                writer.add(name, {"features": features}, clip_len_s=clip_len)
            writer.publish()
    if text_kind(config.features.text.encoder).is_table:
        vectors = draw.standard_normal((len(words) + 1, shape.text_dim)).astype(np.float32)
        vectors[0] = 0
        WordVectors(("", *words), vectors).save(folder / "features" / WORD_TABLE_FILE)
        return
    spec = {"encoder": config.features.text.encoder, "dim": shape.text_dim, "synthetic": True}
    with FeatureFolder.create_or_open(folder / "features", config.features.text.encoder, spec).writer() as writer:
        for query in dict.fromkeys(str(line["query"]) for line in lines):
            ids = np.array([49406, *(1 + words.index(w) for w in query.split()), 49407], np.int64)
            tokens = draw.standard_normal((len(ids), shape.text_dim), np.float32)
            writer.add(text_key(query), {"tokens": tokens, "token_ids": ids})
        writer.publish()
