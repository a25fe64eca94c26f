"""Grounding: a video is encoded once and asked often, and a long one is searched in pieces."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from untrained_run import save_untrained_run

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.targets import prepare_video
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.extractors.errors import VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.data.frames import FrameTable
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.evaluate.predict import predict
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.ground.pieces import PIECES_PER_BATCH
from mesm.pipeline.ground.retriever import MomentRetriever, find_checkpoint
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.directory import RunDirectory

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> MomentRetriever:
    folder = tmp_path_factory.mktemp("run")
    return MomentRetriever.from_checkpoint(save_untrained_run(folder, load_config("demo")))


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "ramp.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuv420p"
        for i in range(80):
            frame = av.VideoFrame.from_ndarray(np.full((80, 96, 3), 3 * i % 256, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_video_is_encoded_once_and_asked_twice(retriever: MomentRetriever, video_file: Path) -> None:
    video = retriever.encode_video(video_file)
    assert video.duration_s == pytest.approx(8.0, abs=0.05)
    assert video.rows == 8
    first = retriever.ground(video, "it gets bright", top_k=3)
    assert first.moments == retriever.ground(video, "it gets bright", top_k=3).moments
    assert len(first.moments) == 3
    assert [m.score for m in first.moments] == sorted((m.score for m in first.moments), reverse=True)
    assert all(0 <= m.start_s < m.end_s <= video.duration_s for m in first.moments)
    assert len(first.saliency) == video.rows


def test_features_are_kept_in_a_cache(retriever: MomentRetriever, video_file: Path, tmp_path: Path) -> None:
    video = retriever.encode_video(video_file, cache=tmp_path)
    shards = sorted(tmp_path.glob("*/shard-*"))
    again = retriever.encode_video(video_file, cache=tmp_path)
    assert sorted(tmp_path.glob("*/shard-*")) == shards
    assert all(np.array_equal(a, b) for a, b in zip(video.streams, again.streams, strict=True))


def test_empty_query_and_long_query(retriever: MomentRetriever, video_file: Path) -> None:
    video = retriever.encode_video(video_file)
    with pytest.raises(PipelineError, match="empty"):
        retriever.ground(video, "  ")
    assert retriever.ground(video, "word " * 500).words_cut
    assert not retriever.ground(video, "two words").words_cut
    assert retriever.max_words == 22
    assert not retriever.ground(video, "word " * 22).words_cut
    assert retriever.ground(video, "word " * 23).words_cut


def test_broken_video_is_a_typed_error(retriever: MomentRetriever, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video at all")
    with pytest.raises(VideoError):
        retriever.encode_video(path)


def test_long_video_is_searched_in_pieces_that_cover_it(retriever: MomentRetriever) -> None:
    rows = 500
    streams = (np.random.default_rng(0).standard_normal((rows, retriever.encoders[0].dim)).astype(np.float32),)
    video = EncodedVideo(Path("long.mp4"), 500.0, streams)
    size = retriever.config.dataset.max_rows
    result = retriever.ground(video, "a dog", top_k=50)
    assert len(result.saliency) == rows
    assert max(m.end_s for m in result.moments) > size


def test_grounding_ranks_as_the_configuration_says(tmp_path: Path) -> None:
    answers = {}
    for name in ("class", "frames"):
        config = load_config("demo", ["model.encoder_loss=bce", f"evaluate.rank_by={name}"])
        retriever = MomentRetriever.from_checkpoint(save_untrained_run(tmp_path / name, config))
        streams = (np.random.default_rng(0).standard_normal((300, retriever.encoders[0].dim)).astype(np.float32),)
        moments = retriever.ground(EncodedVideo(Path("a.mp4"), 300.0, streams), "a dog", top_k=50).moments
        answers[name] = {(m.start_s, m.end_s): m.score for m in moments}
    shared = answers["class"].keys() & answers["frames"].keys()
    assert shared
    assert all(answers["frames"][window] < answers["class"][window] for window in shared)


def test_answers_of_short_videos_are_those_of_evaluation(tmp_path: Path) -> None:
    for number, override in enumerate(("evaluate.nms=-1", "evaluate.nms=0.5", "train.precision=bf16")):
        config = load_config("demo", [override])
        retriever = MomentRetriever.from_checkpoint(save_untrained_run(tmp_path / str(number), config))
        rows = np.random.default_rng(0).standard_normal((37, retriever.encoders[0].dim)).astype(np.float32)
        query = Annotation("q", "a", "a dog runs", (), 38.5, None, "test")
        frames = FrameTable({"a": prepare_video([rows], config.dataset.max_rows, config.dataset.rows)})
        data = MomentData([query], frames, retriever.text, Vocabulary((), 200, 49406, 49407), config.dataset)
        (expected,) = predict(retriever.trained.network, data, config)
        result = retriever.ground(EncodedVideo(Path("a.mp4"), 38.5, (rows,)), query.query, top_k=50)
        assert [[m.start_s, m.end_s] for m in result.moments] == expected.windows[:, :2].tolist()
        np.testing.assert_allclose([m.score for m in result.moments], expected.windows[:, 2], atol=1e-4)
        np.testing.assert_allclose(result.saliency, expected.saliency, atol=1e-6)


def test_pieces_are_as_long_as_the_videos_of_the_training(tmp_path: Path) -> None:
    run = save_untrained_run(tmp_path, load_config("demo"))
    checkpoint = RunDirectory(run).load(BEST)
    assert checkpoint is not None
    RunDirectory(run).save(BEST, checkpoint.tensors, {**checkpoint.meta, "longest_rows": 30})
    retriever = MomentRetriever.from_checkpoint(run)
    seen: list[list[int]] = []
    network = retriever.trained.network
    network.register_forward_pre_hook(lambda _, inputs: seen.append(list(inputs[0].frames.lengths)))
    for rows in (60, 61, 400):
        streams = (np.random.default_rng(0).standard_normal((rows, retriever.encoders[0].dim)).astype(np.float32),)
        retriever.ground(EncodedVideo(Path("a.mp4"), float(rows), streams), "a dog")
    assert seen[0] == [60]
    assert seen[1] == [30, 30, 30, 30]
    assert {length for lengths in seen[2:] for length in lengths} == {30}
    assert max(map(len, seen)) == PIECES_PER_BATCH


def test_other_encoder_weights_are_refused(tmp_path: Path) -> None:
    save_untrained_run(tmp_path, load_config("demo"))
    checkpoint = RunDirectory(tmp_path).load(BEST)
    assert checkpoint is not None
    meta = dict(checkpoint.meta)
    meta["fingerprints"] = {**meta["fingerprints"], "clip": "0" * 64}
    RunDirectory(tmp_path).save(BEST, checkpoint.tensors, meta)
    with pytest.raises(PipelineError, match="trained on other features"):
        MomentRetriever.from_checkpoint(tmp_path)


def test_checkpoint_is_found_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MESM_CHECKPOINT", raising=False)
    assert find_checkpoint(None) is None
    run = tmp_path / "runs" / "a"
    RunDirectory(run).create()
    RunDirectory(run).save(BEST, {}, {})
    assert find_checkpoint(None) == Path("runs/a")
    assert find_checkpoint(Path("b")) == Path("b")
    RunDirectory(tmp_path / "runs" / "c").create()
    RunDirectory(tmp_path / "runs" / "c").save(BEST, {}, {})
    with pytest.raises(PipelineError, match=r"runs/a, runs/c.*--zero-shot"):
        find_checkpoint(None)
