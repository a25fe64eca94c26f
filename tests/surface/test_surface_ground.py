"""`ground` answers what `evaluate` answers, and an answer in a long video lies where the moment was seen."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from calls import command, evaluate, train
from stored import predictions

from mesm.pipeline.grounding import MomentRetriever

QUERY = "a square moves to the right"
MAX_ROWS, ROW_S = 16, 1.25
SHORTEST_S = 0.01
PIECES = 6
"""Of a long video: each as long as the video that was trained on, and half of the one before."""


def write_video(path: Path, frames: int) -> None:
    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        for number in range(frames):
            if number % 10 == 0:
                picture = np.kron(draw.integers(0, 256, (8, 8, 3)), np.ones((10, 12, 1))).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Trained:
    corpus: Path
    run: Path
    retriever: MomentRetriever
    video: Any
    """The film as the retriever encoded it."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of one epoch on one video, extracted and trained by the commands."""
    corpus = tmp_path_factory.mktemp("corpus")
    (corpus / "videos").mkdir()
    (corpus / "annotations").mkdir()
    film = corpus / "videos" / "film.mp4"
    write_video(film, 74)
    record = {"query_id": 1, "video_id": "film", "query": QUERY, "moments": [[2, 5]], "duration_s": 7.4}
    for split in ("train", "val", "test"):
        (corpus / "annotations" / f"{split}.jsonl").write_text(json.dumps(record) + "\n")
    config = corpus / "small.yaml"
    config.write_text(f"base: demo\ndataset: {{max_rows: {MAX_ROWS}}}\ntrain: {{epochs: 1}}\n")
    place = ("--annotations", corpus / "annotations", "--features", corpus / "features", "--device", "cpu")
    command("extract", "--config", config, "--videos", corpus / "videos", *place)
    train(config, corpus, corpus / "run")
    retriever = MomentRetriever.from_checkpoint(corpus / "run")
    return Trained(corpus, corpus / "run", retriever, retriever.encode_video(film))


def windows(result: Any) -> np.ndarray:
    """(n, 3): start, end and score of every answer."""
    return np.array([[moment.start_s, moment.end_s, moment.score] for moment in result.moments])


def test_ground_answers_what_evaluate_answers(trained: Trained) -> None:
    evaluate(trained.corpus, trained.run)
    (predicted,) = predictions(trained.run)
    result = trained.retriever.ground(trained.video, QUERY, top_k=100)
    expected = [window for window in predicted["pred_relevant_windows"] if window[1] - window[0] >= SHORTEST_S]
    assert len(expected) > 5
    np.testing.assert_allclose(windows(result), expected, atol=2e-4)
    np.testing.assert_allclose(result.saliency, predicted["pred_saliency_scores"], atol=1e-3)


def test_answer_in_a_long_video_lies_where_its_piece_does(trained: Trained) -> None:
    """Each piece is asked by itself, as a video that is not cut: what fits into half a piece is one such answer."""
    size, dim = trained.video.rows, trained.video.streams[0].shape[1]
    first_rows = [number * (size // 2) for number in range(PIECES)]
    rows = first_rows[-1] + size
    frames = np.random.default_rng(3).standard_normal((rows, dim)).astype(np.float32)

    def ask(first: int, count: int) -> Any:
        video = replace(trained.video, duration_s=count * ROW_S, streams=(frames[first : first + count],))
        return trained.retriever.ground(video, QUERY, top_k=1000)

    whole, pieces = ask(0, rows), [ask(first, size) for first in first_rows]
    offsets = [np.array([first * ROW_S, first * ROW_S, 0]) for first in first_rows]
    expected = np.concatenate([windows(piece) + offset for piece, offset in zip(pieces, offsets, strict=True)])
    found = windows(whole)
    assert len(found)
    assert found[:, 0].min() >= 0
    assert found[:, 1].max() <= rows * ROW_S
    short = found[found[:, 1] - found[:, 0] <= size * ROW_S / 2]
    distances = np.abs(short[:, None, :2] - expected[:, :2]).max(2)
    assert len(short)
    assert distances.min(1).max() < 1e-3
    assert ((short[:, 2] > 0) & (short[:, 2] < 1)).all()
    alone = first_rows[1]
    np.testing.assert_allclose(whole.saliency[:alone], pieces[0].saliency[:alone], atol=1e-4)
    np.testing.assert_allclose(whole.saliency[-alone:], pieces[-1].saliency[-alone:], atol=1e-4)
