"""The demo: the whole pipeline on generated videos, without a download.

Every stage is the real one: files are written, decoded, encoded into shards, trained on, evaluated, and grounded from
the raw file again. A stage that is done is not done again, and a stage that was interrupted goes on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.plain_text import read_json
from mesm.extractors.weights.sources import WeightSources
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import Config
from mesm.pipeline.demo.videos import CorpusPaths, generate_corpus
from mesm.pipeline.evaluate.stage import evaluate
from mesm.pipeline.evaluate.tables import metrics_table
from mesm.pipeline.extract import stage as extract_stage
from mesm.pipeline.ground.page import grounding_figure, write_demo_page
from mesm.pipeline.ground.retriever import MomentRetriever
from mesm.pipeline.report.grounding_page import GroundingFigure
from mesm.pipeline.report.table import render_rich, render_text
from mesm.pipeline.report.thumbnails import thumbnails
from mesm.pipeline.run.console import ProgressBar, say
from mesm.pipeline.run.text_files import publish_text
from mesm.pipeline.train.recipe import train
from mesm.pipeline.workspace import Workspace

PAGE = "demo.html"
SHOWN_QUERIES = 3


class StageClock:
    """Seconds that each stage took, kept in a file: a resumed stage adds to its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds = _seconds(path) if path.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce and time a stage."""
        say(f"--- {name}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0) + time.monotonic() - started, 1)
            publish_text(self._path, json.dumps(self.seconds))


def _seconds(path: Path) -> dict[str, float]:
    """Read how long stages took in earlier runs; what is no such file says nothing."""
    try:
        return {str(name): float(seconds) for name, seconds in read_json(path).items()}
    except (ValueError, AttributeError, TypeError) as error:
        say(f"note: {path} is damaged ({error}); the seconds of earlier runs are not counted")
        return {}


def run_demo(out: Path, videos: int, seed: int) -> None:
    """Generate, extract, train, evaluate, ground and write the page; the table goes to stdout."""
    out.mkdir(parents=True, exist_ok=True)
    config, device, started = load_config("demo"), torch.device("cpu"), time.monotonic()
    clock = StageClock(out / "seconds.json")
    say("the encoder is a small CLIP with untrained, seeded weights: it sees colours and shapes, but knows no words")
    with clock.stage("generate"), ProgressBar("videos", videos) as bar:
        corpus = generate_corpus(
            out / "corpus", videos=videos, seed=seed, on_progress=lambda done, total: bar.update(done)
        )
    workspace = Workspace(config, corpus.annotations, out / "features", device)
    with clock.stage("extract"):
        report = extract_stage.extract(workspace, corpus.videos, WeightSources())
        if not report.complete:
            lines = extract_stage.describe_failures(report.videos.failed, report.missing, workspace.features)
            raise PipelineError("the demo's own videos could not be extracted:\n" + "\n".join(lines))
    with clock.stage("train"):
        train(workspace, out / "run")
    with clock.stage("evaluate"):
        result = evaluate(out / "run", corpus.annotations, out / "features", [], device, published=False)[0]
    table = metrics_table(result.scores)
    page = out / PAGE
    with clock.stage("ground"):
        if not page.exists() or page.stat().st_mtime < (out / "run" / "checkpoint-best.safetensors").stat().st_mtime:
            figures, name = ground_one_video(config, corpus, out, device)
            write_demo_page(page, figures, f"{name}, a video that the network has not seen", table)
    if sys.stdout.isatty():
        Console(highlight=False).print(render_rich(table, "held-out videos"))
    else:
        print(f"held-out videos\n{render_text(table)}")
    print(
        ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.seconds.items())
        + f"; this run {time.monotonic() - started:.0f} s"
    )
    print(f"page: {page}")


def ground_one_video(
    config: Config, corpus: CorpusPaths, out: Path, device: torch.device
) -> tuple[list[GroundingFigure], str]:
    """Ground some queries about the first held-out video from its raw file."""
    queries: list[Annotation] = read_annotations(
        config.dataset.reader, corpus.annotations, config.dataset.test_splits[0]
    )
    chosen = [query for query in queries if query.video_id == queries[0].video_id][:SHOWN_QUERIES]
    path = corpus.videos / f"{chosen[0].video_id}.mp4"
    retriever = MomentRetriever.from_checkpoint(out / "run", device)
    video = retriever.encode_video(path)
    pictures = thumbnails(path)
    figures = [
        grounding_figure(video, retriever.ground(video, query.query), pictures, query.moments) for query in chosen
    ]
    return figures, path.name
