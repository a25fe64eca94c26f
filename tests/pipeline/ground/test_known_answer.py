"""A known answer in a short and in a long film: grounding and evaluation place it at the same millisecond."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.datasets.text.word_vectors import WordVectors
from mesm.model.batch import Batch
from mesm.model.network import Answers, Network
from mesm.model.network_config import NetworkConfig, Sizes
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import Config, TextFeatureConfig
from mesm.pipeline.data.frames import FrameTable
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.data.texts import VectorText
from mesm.pipeline.evaluate.metrics import evaluate_predictions
from mesm.pipeline.evaluate.predict import predict, protocol_of
from mesm.pipeline.evaluate.trained import TrainedModel
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.ground.encoding import read_encoded
from mesm.pipeline.ground.retriever import MomentRetriever
from mesm.pipeline.run.checkpoint import Checkpoint

DIM, PIECE_ROWS = 6, 40
MILLISECOND = 1e-3
FILMS = {"short": (20, 0.97), "as long as a piece": (PIECE_ROWS, 1.0), "long": (501, 0.98)}
"""Rows, and seconds of each."""


@dataclass
class Marks:
    """(N, L) bool: the rows that carry the mark."""

    found: torch.Tensor
    lengths: tuple[int, ...]

    def float(self) -> Marks:
        return self


class Finder(Network):
    """Answers with the rows whose first number is larger than the others: it cannot be wrong about them."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(), Sizes(DIM + 2, 3, 0))
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Marks:
        videos = [batch.video.split(list(batch.frames.lengths))[i] for i in batch.video_of_query]
        marks = [video[:, 0] > video[:, 1:DIM].abs().sum(1) for video in videos]
        return Marks(torch.nn.utils.rnn.pad_sequence(marks, batch_first=True), tuple(map(len, videos)))

    def losses(self, *arguments: Any) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def decode(self, output: Marks, batch: Batch, rank_by: str = "class") -> Answers:
        lengths = torch.tensor(output.lengths, dtype=torch.float64)
        count = output.found.sum(1)
        first = output.found.int().argmax(1).double()
        windows = torch.stack((first / lengths, (first + count) / lengths), dim=1)
        # Of a moment that a piece shows only in part, that piece knows less.
        return Answers(windows[:, None], count[:, None] / (1.0 + count.max()), output.found.float())


@pytest.fixture
def config() -> Config:
    base = load_config("demo")
    dataset = replace(base.dataset, max_rows=PIECE_ROWS, rows="pool", clip_len=1.0)
    return replace(base, dataset=dataset, evaluate=replace(base.evaluate, nms=-1.0))


@pytest.fixture
def text() -> VectorText:
    table = WordVectors(("", "door"), np.array([[0, 0, 0], [1, 2, 3]], np.float32))
    return VectorText(table, TextFeatureConfig(encoder="glove"), 8)


def features(rows: int, first: int, stop: int) -> np.ndarray:
    generator = np.random.default_rng(1)
    found = generator.standard_normal((rows, DIM)).astype(np.float32)
    found[:, 0] = 0
    found[first:stop, 0] = 100
    return found


def moments(rows: int) -> list[tuple[int, int]]:
    """Rows [first, stop) of moments at the start, inside, across the edge of a piece, and at the end."""
    inside = min(rows // 2, rows - 3)
    return [(0, 3), (inside, inside + 2), (max(rows - 5, 0), rows), (min(PIECE_ROWS - 2, rows - 6), min(42, rows - 2))]


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("number", range(4))
def test_grounding_and_evaluation_agree_with_the_truth(
    config: Config, text: VectorText, tmp_path: Path, name: str, number: int
) -> None:
    rows, row_s = FILMS[name]
    first, stop = moments(rows)[number]
    truth, duration = (first * row_s, stop * row_s), rows * row_s
    stored = FeatureFolder.create_or_open(tmp_path, "clip", {"encoder": "clip", "dim": DIM})
    with stored.writer() as writer:
        writer.add("v", {"features": features(rows, first, stop)}, clip_len_s=row_s, duration_s=duration)
    network = Finder().eval()

    trained = TrainedModel(network, config, Checkpoint({}, {}), tmp_path, torch.device("cpu"))
    video = read_encoded(Path("v.mp4"), "v", [stored])
    assert isinstance(video, EncodedVideo)
    result = MomentRetriever(trained, [], text).ground(video, "a door", top_k=1)
    grounded = (result.moments[0].start_s, result.moments[0].end_s)
    assert grounded == pytest.approx(truth, abs=MILLISECOND)
    assert np.flatnonzero(result.saliency).tolist() == list(range(first, stop))

    whole = replace(config, dataset=replace(config.dataset, max_rows=rows))
    query = Annotation(0, "v", "a door", (truth,), duration, None, "test")
    frames = FrameTable.load([stored], ["v"], whole.dataset)
    data = MomentData([query], frames, text, Vocabulary(("door",), 1), whole.dataset)
    (prediction,) = predictions = predict(network, data, whole)
    assert prediction.windows[0, :2].tolist() == pytest.approx(truth, abs=MILLISECOND)
    assert prediction.windows[0, :2].tolist() == pytest.approx(grounded, abs=MILLISECOND)
    assert evaluate_predictions(predictions, [query], protocol_of(whole)).full.miou == pytest.approx(100, abs=0.1)
