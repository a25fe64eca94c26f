"""A data set of the size of ActivityNet Captions: what reading, batching and scoring it take, the network idle."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.datasets.grouping import epoch_batches
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline.config.load import load_config
from mesm.pipeline.data.texts import WORD_TABLE_FILE
from mesm.pipeline.evaluate.metrics import evaluate_predictions
from mesm.pipeline.evaluate.predict import protocol_of
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.run.memory import peak_memory_bytes
from mesm.pipeline.train.data import load_training_data
from mesm.pipeline.workspace import Workspace

SETTING = "msat-activitynet-c3d"
WIDTH, WORDS = 500, 10_000
QUERIES_EACH, EVALUATED = 4.8, 17_000
SPLITS = {"train": 0.9, "val_1": 0.05, "val_2": 0.05}


def bench_large(options: argparse.Namespace) -> dict[str, Any]:
    """Generate the data set in a temporary folder, then read, plan, batch an epoch, and score 17,000 answers."""
    torch.set_num_threads(1)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="mesm-large-") as name:
        folder = Path(name)
        with _timed(seconds, "generate_s"):
            queries = write_large(folder, options.many)
        config = load_config(SETTING)
        generated = _memory()
        with _timed(seconds, "read_s"):
            data = load_training_data(Workspace(config, folder, folder, torch.device("cpu")))
        with _timed(seconds, "plan_s"):
            batches = epoch_batches(data.train.groups, config.train.batch_groups, seed=0, epoch=0)
        with _timed(seconds, "epoch_of_batches_s"):
            for number, groups in enumerate(batches):
                indices, places = data.train.queries_of(groups)
                data.train.batch(indices, places, np.random.default_rng([0, number]), config.model.draws())
        read = _memory()
        truth = [data.train.annotations[i % len(data.train)] for i in range(EVALUATED)]
        with _timed(seconds, "score_s"):
            _score(truth, config)
    return {
        "bench": "large",
        "setting": SETTING,
        "videos": options.many,
        "queries": queries,
        "steps": len(batches),
        **{name: round(value, 2) for name, value in seconds.items()},
        "batch_ms": round(1000 * seconds["epoch_of_batches_s"] / len(batches), 2),
        "memory_of_generating_mb": generated,
        "memory_of_reading_and_batching_mb": read,
        "peak_memory_mb": _memory(),
    }


def _memory() -> int:
    return round(peak_memory_bytes(torch.device("cpu")) / 2**20)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


def _score(truth: list[Any], config: Any) -> None:
    """Score random answers, five a query."""
    draw = np.random.default_rng(1)
    windows = np.sort(draw.random((len(truth), 5, 2)), axis=-1) * 100
    scores = np.sort(draw.random((len(truth), 5, 1)), axis=1)[:, ::-1]
    answers = [
        Prediction(number, "", annotation.video_id, np.concatenate((own, sure), axis=1))
        for number, (annotation, own, sure) in enumerate(zip(truth, windows, scores, strict=True))
    ]
    numbered = [replace(annotation, query_id=number) for number, annotation in enumerate(truth)]
    evaluate_predictions(answers, numbered, protocol_of(config))


def write_large(folder: Path, videos: int) -> int:
    """Write annotations, features and word vectors below a folder; returns the number of queries."""
    draw = np.random.default_rng(0)
    words = [f"word{i}" for i in range(WORDS)]
    vectors = draw.standard_normal((WORDS + 1, 300)).astype(np.float32)
    vectors[0] = 0
    WordVectors(("", *words), vectors).save(folder / WORD_TABLE_FILE)
    ends = np.cumsum([round(videos * share) for share in SPLITS.values()])
    records: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    names, queries = list(SPLITS), 0
    # Random numbers once; every video is another stretch of them.
    pool = draw.standard_normal((4096, WIDTH)).astype(np.float16)
    spec = {"encoder": "c3d-activitynet", "dim": WIDTH, "synthetic": True}
    with FeatureFolder.create_or_open(folder, "c3d-activitynet", spec).writer() as writer:
        for number in range(videos):
            rows, first = int(draw.integers(60, 500)), int(draw.integers(0, 3500))
            duration, count = rows * 0.5, max(1, int(draw.poisson(QUERIES_EACH)))
            stamps = np.sort(draw.uniform(0, duration, (count, 2)), axis=1)
            chosen = draw.integers(0, WORDS, (count, 14))
            records[names[int(np.searchsorted(ends, number, side="right").clip(max=2))]][f"v_{number:06}"] = {
                "duration": duration,
                "timestamps": [[float(a), float(max(b, a + 0.3))] for a, b in stamps],
                "sentences": [" ".join(words[i] for i in row) for row in chosen],
            }
            queries += count
            writer.add(f"v_{number:06}", {"features": pool[first : first + rows]}, clip_len_s=0.5)
            if number % 1000 == 999:
                writer.publish()
        writer.publish()
    for split, content in records.items():
        (folder / f"{split}.json").write_text(json.dumps(content))
    return queries
