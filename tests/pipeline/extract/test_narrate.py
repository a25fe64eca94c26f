"""The narrator stage: what is said is stored, goes on where it was killed, travels as files, reaches TEA's answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_extraction import SeededEncoder, make_videos
from tiny_narrators import make_llava

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.narration import Passage, from_arrays, to_arrays
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.word_vectors import WordVectors
from mesm.extractors.weights.sources import WeightSources
from mesm.pipeline.cli import run
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import config_from_plain
from mesm.pipeline.config.schema import ExtractConfig
from mesm.pipeline.evaluate.stage import evaluate
from mesm.pipeline.extract import narrate as stage
from mesm.pipeline.extract.narration_files import write_subtitles
from mesm.pipeline.extract.run import extract_videos
from mesm.pipeline.extract.stage import extract_queries
from mesm.pipeline.extract.videos import collect_videos
from mesm.pipeline.grounding import MomentRetriever
from mesm.pipeline.importers.narrations import store
from mesm.pipeline.train.recipe import train
from mesm.pipeline.workspace import Workspace

CPU = torch.device("cpu")
INTERVAL_S = 0.25


class KilledError(Exception):
    """Stands for a kill."""


class Teller:
    """Says the brightness of each frame, and dies after so many frames."""

    def __init__(self, dies_after: int = 10**9) -> None:
        self.spec: dict[str, Any] = {"narrator": "teller"}
        self.told, self.dies_after = 0, dies_after

    def narrate(self, frames: Sequence[np.ndarray]) -> list[str]:
        if self.told + len(frames) > self.dies_after:
            raise KilledError
        self.told += len(frames)
        return [f"level {int(frame.mean())}" for frame in frames]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_videos(folder)
    return folder


def narrate(videos: Path, features: Path, speaker: Any, batch_size: int = 3) -> stage.NarrationReport:
    items = collect_videos(videos)
    return stage.narrate_videos(items, speaker, features, INTERVAL_S, batch_size, ExtractConfig(workers=1), CPU)


def said(folder: FeatureFolder) -> dict[str, list[Passage]]:
    folder.refresh()
    return {video: from_arrays(folder.read(video)) for video in folder}


def test_every_interval_of_every_video_is_told_once(videos: Path, tmp_path: Path) -> None:
    report = narrate(videos, tmp_path, Teller())
    found = said(report.folder)
    assert len(found) == report.videos.done == len(collect_videos(videos))
    for video, passages in found.items():
        duration = report.folder.record(video).duration_s
        assert duration is not None
        assert [passage.time_s for passage in passages] == stage.times_of(duration, INTERVAL_S)
    again = Teller()
    assert narrate(videos, tmp_path, again).videos.skipped == len(found)
    assert again.told == 0
    assert not FeatureFolder.open(report.folder.path).verify()


@pytest.mark.parametrize("kills", [(4, 11), pytest.param((3, 4, 5, 6, 7, 9, 11, 14, 20), marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_at_the_times_that_are_missing(
    kills: tuple[int, ...], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Teller()
    expected = said(narrate(videos, tmp_path / "whole", whole).folder)
    monkeypatch.setattr(stage, "FLUSH_PASSAGES", 3)
    total = 0
    for kill in kills:
        dying = Teller(dies_after=kill)
        with pytest.raises(KilledError):
            narrate(videos, tmp_path / "killed", dying)
        total += dying.told
    last = Teller()
    report = narrate(videos, tmp_path / "killed", last)
    assert said(report.folder) == expected
    # No more than a flush and the rest of a batch are told twice a kill.
    assert whole.told <= total + last.told <= whole.told + 5 * len(kills)
    assert last.told < whole.told


def test_another_interval_or_narrator_is_another_folder(videos: Path, tmp_path: Path) -> None:
    folders = {stage.narration_folder(tmp_path, Teller(), interval).path for interval in (0.5, 1.0)}
    other = Teller()
    other.spec = {"narrator": "another"}
    assert len({*folders, stage.narration_folder(tmp_path, other, 1.0).path}) == 3


def test_memory_that_holds_fewer_frames_halves_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    class Small(Teller):
        def narrate(self, frames: Sequence[np.ndarray]) -> list[str]:
            if len(frames) > self.dies_after:
                raise torch.OutOfMemoryError
            return [str(int(frame[0, 0, 0])) for frame in frames]

    frames = [np.full((2, 2, 3), number, np.uint8) for number in range(5)]
    assert stage._in_parts(Small(2), frames) == ["0", "1", "2", "3", "4"]
    assert "does not hold 5 frames" in capsys.readouterr().err
    with pytest.raises(PipelineError, match="does not hold one frame"):
        stage._in_parts(Small(0), frames)


def test_any_text_is_stored_and_control_characters_are_spaces() -> None:
    texts = ["", "ein Gruß, ein 🎬, 手", "a\x00b\nc", "word " * 10_000, "\ud800"]
    found = from_arrays(to_arrays([Passage(float(number), text) for number, text in enumerate(texts)]))
    assert [passage.text for passage in found] == ["", texts[1], "a b c", texts[3].strip(), "?"]


def test_subtitles_last_until_the_next_passage(tmp_path: Path) -> None:
    passages = [Passage(0, "one"), Passage(1, "one"), Passage(2, ""), Passage(3, "two")]
    assert write_subtitles(tmp_path / "film.srt", passages, 3.5) == 2
    lines = (tmp_path / "film.srt").read_text().splitlines()
    assert lines[1:3] == ["00:00:00,000 --> 00:00:02,000", "one"]
    assert lines[5:7] == ["00:00:03,000 --> 00:00:03,500", "two"]


def test_from_raw_video_to_the_answer_of_tea(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way by the command line, with a narrator of the real class whose weights alone are not real."""
    features = tmp_path / "features"
    model = make_llava(tmp_path / "llava")
    options = ["--videos", str(videos), "--narrator", str(model), "--interval", "0.5", "--max-tokens", "4"]
    command = ["narrate", *options, "--features", str(features), "--device", "cpu"]
    assert run([*command, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert run([*command, "--json", str(tmp_path / "said.jsonl")]) == 0
    assert "failed" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert f"{len({line['video_id'] for line in lines})} videos, {len(lines)} passages" in planned
    encoder = SeededEncoder("first", 1, 0.5, tmp_path / "log")
    folder = FeatureFolder.create_or_open(features, "first", {**encoder.spec, "dim": encoder.dim})
    items = collect_videos(videos)
    extract_videos(items, [encoder], [folder], workers=1)
    _write_words(features, lines)
    _write_annotations(tmp_path / "annotations", folder)
    workspace = Workspace(_config(), tmp_path / "annotations", features, CPU)
    out = train(workspace, tmp_path / "run")
    (result,) = evaluate(out.path, tmp_path / "annotations", features, [], CPU, published=False, controls=True)
    assert set(result.scores) >= {"without the video", "with another video", "with another narrative"}
    with pytest.raises(PipelineError, match=r"tea, which reads narratives"):
        MomentRetriever.from_checkpoint(out.path)
    other = _without_narrations(features, tmp_path / "other")
    with pytest.raises(PipelineError, match=r"no narrations.*narrate"):
        evaluate(out.path, tmp_path / "annotations", other, [], CPU, published=False)


def _without_narrations(features: Path, target: Path) -> Path:
    target.mkdir()
    for path in features.iterdir():
        if not path.name.startswith("narrations"):
            (target / path.name).symlink_to(path)
    return target


def _write_words(features: Path, lines: list[dict[str, Any]]) -> None:
    words = sorted({word.lower() for line in lines for word in line["text"].split()} | {"somebody", "moves"})
    vectors = np.random.default_rng(0).standard_normal((len(words) + 1, 12)).astype(np.float32)
    vectors[0] = 0
    WordVectors(("", *words), vectors).save(features / "glove.safetensors")


def _write_annotations(folder: Path, features: FeatureFolder) -> None:
    folder.mkdir()
    features.refresh()
    names = sorted(features)
    for split, own in (("train", names[:-2]), ("test", names[-2:])):
        records = []
        for number, video in enumerate(own):
            duration = features.record(video).duration_s
            moment = [[0.0, float(duration or 1.0) / 2]]
            query = {"query_id": number, "video_id": video, "query": "somebody moves"}
            records.append({**query, "moments": moment, "duration_s": duration})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _config() -> Any:
    config = config_from_plain(
        {
            "dataset": {"reader": "jsonl", "test_splits": ["test"], "validation_fraction": 0.3, "clip_len": 0.5},
            "features": {"video": [{"encoder": "first", "clip_len": 0.5}], "text": {"encoder": "glove"}},
            "model": {"network": "tea", "dim": 16, "heads": 2},
            "train": {"epochs": 1, "batch_groups": 3, "select_by": "mIoU"},
        },
        "the test",
    )
    return replace(config, name="tiny-tea")


def test_words_of_passages_get_vectors_beside_those_of_queries(tmp_path: Path) -> None:
    features = tmp_path / "features"
    store({"a": [Passage(0.0, "a red door"), Passage(1.0, "nothing")]}, features, {"narrator": "somebody"})
    vectors = tmp_path / "vectors.txt"
    lines = [
        f"{word} {' '.join(str(0.5 + number) for number in range(300))}" for word in ("man", "red", "door", "else")
    ]
    vectors.write_text("\n".join(lines) + "\n")
    sources = WeightSources(files={"glove-6b-300d": vectors})
    query = Annotation(0, "a", "a man", ((0.0, 1.0),), 2.0, None, "train")
    extract_queries(_config(), [query], features, CPU, sources)
    assert WordVectors.load(features / "glove.safetensors").words == ("", "man", "red", "door")
