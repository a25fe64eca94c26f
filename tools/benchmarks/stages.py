"""Whole stages: an epoch of training, the scoring of a split, the answer to one query."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.extractors.weights.sources import WeightSources
from mesm.model.batch import Batch
from mesm.model.network_config import Sizes
from mesm.model.networks.mesm import MesmConfig
from mesm.model.registry import build_network
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import to_plain
from mesm.pipeline.evaluate.metrics import evaluate_predictions
from mesm.pipeline.evaluate.predict import protocol_of
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.extract.encoders import build_text_encoder, build_video_encoders, encoder_fingerprint
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.ground.retriever import MomentRetriever
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.memory import peak_memory_bytes
from mesm.pipeline.train.data import build_for, load_training_data
from mesm.pipeline.train.state import TrainingState
from mesm.pipeline.train.step import Steps
from mesm.pipeline.workspace import Workspace
from mesm.tools.benchmarks.timing import Clock, device_name, spread
from mesm.tools.synthetic_dataset import write_synthetic

WARM_UP = 2
QUERIES, WINDOWS = 1550, 10


def bench_epoch(setting: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure an epoch of training, and what of it cuts batches."""
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory(prefix="mesm-bench-") as name:
        folder = Path(name)
        write_synthetic(folder, setting, options.videos)
        overrides = [
            "dataset.reader=jsonl",
            "dataset.validation_split=val",
            f"train.precision={options.precision}",
            f"train.compile={str(options.compile).lower()}",
        ]
        config = load_config(setting, overrides)
        data = load_training_data(Workspace(config, folder / "annotations.jsonl", folder / "features", device))
        state = TrainingState.start(config, build_for(config, data).to(device))
        training = Steps(config, data.train, state)
        state.network.train()
        batches = training.batches(0)
        host: list[float] = []
        cut = data.train.batch

        def timed(*arguments: Any, **named: Any) -> Batch:
            started = time.perf_counter()
            batch = cut(*arguments, **named)
            batch.prepare()
            host.append(1000 * (time.perf_counter() - started))
            return batch

        data.train.batch = timed  # type: ignore[method-assign]
        for number, groups in enumerate(batches[:WARM_UP]):
            training.take(groups, number)
        host.clear()
        clock = Clock(device)
        steps = [clock(lambda g=groups, n=n: training.take(g, n)) for n, groups in enumerate(batches)]  # type: ignore[misc]
    ms, batch_ms = statistics.median(steps), statistics.median(host)
    return {
        "bench": "epoch",
        "setting": setting,
        "device": device_name(device),
        "precision": options.precision,
        "compile": options.compile,
        "queries": len(data.train),
        "steps": len(steps),
        "seconds": round(sum(steps) / 1000, 2),
        "ms_per_step": round(ms, 2),
        "spread": round(spread(steps), 3),
        "batch_ms": round(batch_ms, 2),
        "batch_fraction": round(batch_ms / ms, 4),
        "peak_memory_mb": round(peak_memory_bytes(device) / 2**20),
    }


def bench_evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the scoring of 1,550 queries with 10 windows each, under the QVHighlights protocol."""
    draw = np.random.default_rng(0)
    annotations, predictions = [], []
    for number in range(QUERIES):
        starts = draw.uniform(0, 140, int(draw.integers(1, 4)))
        moments = tuple((float(s), float(s + draw.uniform(2, 10))) for s in np.sort(starts))
        annotations.append(Annotation(number, f"v{number}", "q", moments, 150.0, None, "val"))
        edges = np.sort(draw.uniform(0, 150, (WINDOWS, 2)), axis=1)
        windows = np.concatenate((edges, -np.sort(-draw.random((WINDOWS, 1)), axis=0)), axis=1)
        predictions.append(Prediction(number, "q", f"v{number}", windows, None))
    protocol, clock = protocol_of(load_config("qvhighlights-clip-slowfast")), Clock(torch.device("cpu"))
    times = [clock(lambda: evaluate_predictions(predictions, annotations, protocol)) for _ in range(options.repeats)]
    ms = statistics.median(times)
    return {
        "bench": "evaluate",
        "queries": QUERIES,
        "windows": WINDOWS,
        "ms": round(ms, 1),
        "spread": round(spread(times), 3),
    }


def bench_ground(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one query about an encoded video, of a minute and of two hours, with the demo's sizes of network."""
    device, config, sources = torch.device(options.device), load_config("demo"), WeightSources()
    video_encoders = build_video_encoders(config, device, sources)
    text_encoder = build_text_encoder(config.features.text, device, sources)
    sizes = Sizes(video_encoders[0].dim + 2, text_encoder.dim, 203)
    published = MesmConfig()
    assert isinstance(config.model, MesmConfig)
    network = replace(
        config.model, dim=published.dim, heads=published.heads, feed_forward_dim=published.feed_forward_dim
    )
    config = replace(config, model=network)
    found = {encoder.name: encoder_fingerprint(encoder) for encoder in video_encoders}
    found[text_encoder.name] = encoder_fingerprint(text_encoder)
    with tempfile.TemporaryDirectory(prefix="mesm-bench-") as name:
        run = RunDirectory(Path(name))
        run.create()
        model = build_network(network, sizes)
        meta = {
            "config": to_plain(config),
            "sizes": asdict(sizes),
            "text": {},
            "vocabulary": Vocabulary((), 200, 49406, 49407).to_json(),
            "fingerprints": found,
        }
        run.save(BEST, {f"model.{k}": v for k, v in model.state_dict().items()}, meta)
        retriever = MomentRetriever.from_checkpoint(run.path, device, sources)
    row: dict[str, Any] = {"bench": "ground", "device": device_name(device)}
    for label, rows in (("minute", 60), ("two_hours", 7200)):
        features = np.random.default_rng(0).standard_normal((rows, video_encoders[0].dim), np.float32)
        video = EncodedVideo(Path("film.mp4"), float(rows), (features,))
        clock = Clock(device)
        retriever.ground(video, "a warm-up")
        times = [clock(lambda v=video: retriever.ground(v, "a person opens the door")) for _ in range(options.repeats)]  # type: ignore[misc]
        row |= {f"{label}_ms_per_query": round(statistics.median(times), 1)}
    return row
