"""A training small enough for tests: two streams of 8 numbers, token states of 12, moments that the frames show.

As a program it trains, `tiny_training.py FOLDER OUT [key=value...]`, so that a test can kill it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.narration import Passage
from mesm.datasets.shards.fingerprints import text_key
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.texts import WORD_TABLE_FILE
from mesm.pipeline.importers.narrations import store
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.distributed import ALONE, World
from mesm.pipeline.train.data import build_for, load_training_data
from mesm.pipeline.train.recipe import train
from mesm.pipeline.train.state import TrainingState
from mesm.pipeline.train.step import Steps
from mesm.pipeline.workspace import Workspace

VIDEO_DIM, TEXT_DIM = 8, 12
VERBS = ("opens", "closes", "lifts", "throws")
ENDINGS = (" a thing", "", " something")
CONTENT = {
    "dataset": {
        "reader": "jsonl",
        "test_splits": ["test"],
        "validation_fraction": 0.25,
        "max_rows": 16,
        "max_words": 6,
    },
    "features": {
        "video": [{"encoder": "first"}, {"encoder": "second"}],
        "text": {"encoder": "states", "vocabulary_size": 12},
    },
    "model": {
        "dim": 16,
        "heads": 2,
        "feed_forward_dim": 16,
        "queries": 4,
        "input_dropout": 0.1,
        "segment_sentence_layers": 1,
        "frame_word_layers": 1,
        "aligner_layers": 1,
        "encoder_layers": 1,
    },
    "train": {
        "epochs": 6,
        "batch_groups": 3,
        "lr": 1e-3,
        "checkpoint_every_s": 0,
        "clip_norm": 1.0,
        "select_by": "mIoU",
    },
}


def make_corpus(folder: Path, videos: int = 12, test_videos: int = 4, queries: int = 2) -> Path:
    """Write features and annotations below `folder`; the frames of a moment carry their verb's direction."""
    generator = np.random.default_rng(0)
    records: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    streams: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    directions = generator.standard_normal((len(VERBS), VIDEO_DIM)).astype(np.float32)
    for number in range(videos + test_videos):
        rows = 8 + number % 5
        first = 0.3 * generator.standard_normal((rows, VIDEO_DIM)).astype(np.float32)
        split = "train" if number < videos else "test"
        for verb in generator.choice(len(VERBS), queries, replace=False):
            start = int(generator.integers(0, rows - 3))
            end = start + int(generator.integers(2, 4))
            first[start:end] += directions[verb]
            records[split].append(
                {
                    "query_id": len(records["train"]) + len(records["test"]),
                    "video_id": f"v{number:02}",
                    "query": f"somebody {VERBS[verb]}{ENDINGS[number % 3]}",
                    "moments": [[start, end]],
                    "duration_s": rows,
                }
            )
        streams[f"v{number:02}"] = first, generator.standard_normal((rows + 1, VIDEO_DIM)).astype(np.float32)
    for split, lines in records.items():
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "annotations" / f"{split}.jsonl").write_text(text)
    write_streams(folder / "features", streams)
    write_texts(folder / "features", [str(r["query"]) for lines in records.values() for r in lines])
    return folder


def write_streams(
    features: Path,
    streams: dict[str, tuple[np.ndarray, np.ndarray]],
    version: int = 0,
    names: Sequence[str] = ("first", "second"),
) -> None:
    for place, name in enumerate(names):
        spec = {"encoder": name, "dim": VIDEO_DIM, "clip_len_s": 1.0, "version": version}
        with FeatureFolder.create_or_open(features, name, spec).writer() as writer:
            for video, arrays in streams.items():
                writer.add(video, {"features": arrays[place]}, clip_len_s=1.0)
            writer.publish()


def token_ids(query: str) -> np.ndarray:
    """Start, one id a word, end."""
    words = [int(hashlib.sha256(word.encode()).hexdigest()[:4], 16) for word in query.split()]
    return np.array([49406, *words, 49407], np.int64)


def write_texts(features: Path, queries: Iterable[str]) -> FeatureFolder:
    folder = FeatureFolder.create_or_open(features, "states", {"encoder": "states", "dim": TEXT_DIM})
    with folder.writer() as writer:
        for query in dict.fromkeys(queries):
            ids = token_ids(query)
            states = np.stack([np.random.default_rng(i).standard_normal(TEXT_DIM) for i in ids])
            arrays = {"tokens": states.astype(np.float32), "token_ids": ids}
            writer.add(text_key(query), arrays)
        writer.publish()
    return folder


def write_word_table(features: Path, dim: int = TEXT_DIM) -> WordVectors:
    words = ("", "somebody", *VERBS, "a", "thing")
    vectors = np.random.default_rng(3).standard_normal((len(words), dim)).astype(np.float32)
    vectors[0] = 0
    table = WordVectors(words, vectors)
    table.save(features / WORD_TABLE_FILE)
    return table


def write_narrations(folder: Path, version: int = 0) -> FeatureFolder:
    """Say at every second what the annotations say of it; `features` then has narrations."""
    records = [a for split in ("train", "test") for a in queries_of(folder, split)]
    said: dict[str, list[Passage]] = {}
    for record in records:
        assert record.duration_s is not None
        own = said.setdefault(record.video_id, [])
        (start, end), verb = record.moments[0], record.query.split()[1]
        own += [Passage(float(t), verb if start <= t < end else "") for t in range(int(record.duration_s))]
    return store(said, folder / "features", {"narrator": f"test {version}"})


def tiny_config(folder: Path, *overrides: str) -> Config:
    path = folder / "tiny.yaml"
    if not path.exists():
        path.write_text(yaml.safe_dump(CONTENT))
    return load_config(path, overrides)


def queries_of(folder: Path, split: str) -> list[Annotation]:
    return read_annotations("jsonl", folder / "annotations", split)


def workspace_of(folder: Path, config: Config) -> Workspace:
    torch.set_num_threads(1)
    return Workspace(config, folder / "annotations", folder / "features", torch.device("cpu"))


def tiny_steps(folder: Path, *overrides: str, world: World = ALONE) -> Steps:
    """The steps of a training that begins."""
    config = tiny_config(folder, *overrides)
    data = load_training_data(workspace_of(folder, config))
    return Steps(config, data.train, TrainingState.start(config, build_for(config, data)), world)


def train_tiny(folder: Path, out: Path, *overrides: str, select_on: str = "") -> RunDirectory:
    torch.set_num_threads(1)
    config = tiny_config(folder, *overrides)
    return train(workspace_of(folder, config), out, select_on)


def train_killed(folder: Path, out: Path, fault: str, overrides: Sequence[str] = ()) -> int:
    """Train in another process that dies at a write point; return its exit status (-9 when it did die)."""
    tiny_config(folder)
    command = [sys.executable, __file__, str(folder), str(out), *overrides]
    return subprocess.run(command, env={**os.environ, "MESM_FAULT": fault}, check=False).returncode


if __name__ == "__main__":
    train_tiny(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
