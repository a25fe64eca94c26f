"""The demo's corpus is real video, unambiguous, the same every time, and survives being killed."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from mesm.datasets.annotations.registry import read_annotations
from mesm.pipeline.demo import scenes as demo_scenes
from mesm.pipeline.demo.scenes import COLOURS, Scene, plan_scene
from mesm.pipeline.demo.videos import DemoCorpusError, annotation_records, draw_scene, generate_corpus
from mesm.pipeline.evaluate.baselines import fit_fixed_window
from mesm.pipeline.evaluate.metrics import evaluate_predictions
from mesm.pipeline.evaluate.protocols import Protocol

CORPUS = [plan_scene(index, 0) for index in range(120)]


@pytest.fixture
def short_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes are planned as ever, but cut after their first frames."""

    def plan_short(index: int, seed: int) -> Scene:
        scene = plan_scene(index, seed)
        return Scene(**{**scene.__dict__, "frame_count": 5})

    monkeypatch.setattr("mesm.pipeline.demo.videos.plan_scene", plan_short)


def test_scenes_are_what_was_asked_for() -> None:
    assert all(15 <= scene.duration_s <= 45 for scene in CORPUS)
    assert len({(scene.width, scene.height) for scene in CORPUS}) == len(demo_scenes.SIZES)
    assert {scene.fps for scene in CORPUS} == set(demo_scenes.RATES)
    assert np.mean([len(scene.queries) for scene in CORPUS]) >= 4
    assert {scene.split for scene in CORPUS} == {"train", "val", "test"}
    kinds = {query.kind for scene in CORPUS for query in scene.queries}
    assert kinds == set(demo_scenes.VERBS)


def test_moments_lie_in_their_video_and_last_some_seconds() -> None:
    for scene in CORPUS:
        for query in scene.queries:
            assert 0 < query.start_s < query.end_s < scene.duration_s
            assert 2.9 <= query.end_s - query.start_s <= 12.1


def test_some_events_overlap_in_time_but_never_more_than_two() -> None:
    overlapping = 0
    for scene in CORPUS:
        times = np.arange(0, scene.duration_s, 0.1)
        at_once = sum(((times >= a.window[0]) & (times < a.window[1])).astype(int) for a in scene.actors)
        overlapping += np.max(at_once) == 2
        assert np.max(at_once) <= demo_scenes.MAX_AT_ONCE
    assert overlapping > len(CORPUS) // 2


@pytest.mark.parametrize("seed", [0, 1])
def test_a_query_names_one_interval_of_its_video(seed: int) -> None:
    for scene in (plan_scene(index, seed) for index in range(120)):
        looks = [(actor.colour, actor.shape) for actor in scene.actors]
        assert len(set(looks)) == len(looks)
        assert not {a.colour for a in scene.distractors} & {a.colour for a in scene.actors}
        for query in scene.queries:
            colours = {c for c, (_, names) in COLOURS.items() if any(n in query.text.split() for n in names)}
            assert len(colours) == 1
            named = [actor for actor in scene.actors if actor.colour in colours]
            if "something" not in query.text:
                shapes = [s for s, names in demo_scenes.SHAPES.items() if any(n in query.text for n in names)]
                named = [actor for actor in named if actor.shape in shapes]
            assert len(named) == 1
            windows = [named[0].window] + [(p.start_s, p.end_s) for p in named[0].phases]
            assert (query.start_s, query.end_s) in windows
            kinds = [phase.kind for phase in named[0].phases]
            assert query.kind == "presence" or kinds.count(query.kind) == 1


def test_the_best_fixed_window_is_poor(tmp_path: Path) -> None:
    records = [json.dumps(record) for scene in CORPUS for record in annotation_records(scene)]
    (tmp_path / "annotations.jsonl").write_text("\n".join(records))
    train, test = (read_annotations("jsonl", tmp_path, split) for split in ("train", "test"))
    window = fit_fixed_window(train)
    assert evaluate_predictions(window.predict(test), test, Protocol("any")).full.r1[0.5] < 25


def test_an_actor_is_on_screen_exactly_during_its_window() -> None:
    scene = CORPUS[0]
    empty = Scene(**{**scene.__dict__, "actors": ()})
    times = np.arange(scene.frame_count) / float(scene.fps)
    changed = np.array([(a != b).any() for a, b in zip(draw_scene(scene), draw_scene(empty), strict=True)])
    visible = np.zeros(len(times), bool)
    for start, end in (actor.window for actor in scene.actors):
        visible |= (times >= start) & (times < end)
    np.testing.assert_array_equal(changed, visible)


def test_moves_go_where_the_sentence_says() -> None:
    seen = set()
    for scene in CORPUS:
        for actor in scene.actors:
            for phase, (before, after) in zip(actor.phases, pairwise(actor.waypoints), strict=True):
                step = np.array([after[1] - before[1], after[2] - before[2]])
                wanted = np.array(demo_scenes.MOVES.get(phase.kind, (0, 0)))
                assert np.array_equal(np.sign(np.round(step, 6)), wanted)
                seen.add(phase.kind)
    assert set(demo_scenes.MOVES) <= seen


def test_videos_are_h264_of_the_planned_size_rate_and_length(tmp_path: Path) -> None:
    paths = generate_corpus(tmp_path, videos=1)
    with av.open(str(paths.videos / "demo-0000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", CORPUS[0].fps)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    drawn = list(draw_scene(CORPUS[0]))
    assert len(frames) == len(drawn)
    assert frames[0].shape == drawn[0].shape
    assert np.abs(frames[40].astype(int) - drawn[40]).mean() < 12


def test_annotations_and_scenes_tell_the_same(tmp_path: Path) -> None:
    paths = generate_corpus(tmp_path, videos=3, workers=1)
    queries = read_annotations("jsonl", paths.root, "train")
    scenes = [json.loads(line) for line in paths.scenes.read_text().splitlines()]
    assert {query.video_id for query in queries} == {scene["video_id"] for scene in scenes}
    assert [len(scene["query_kinds"]) for scene in scenes] == [
        sum(query.video_id == scene["video_id"] for query in queries) for scene in scenes
    ]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, short_scenes: None) -> None:
    one, other = (generate_corpus(tmp_path / name, videos=3, workers=1) for name in "ab")
    assert one.annotations.read_bytes() == other.annotations.read_bytes()
    for video in sorted(one.videos.iterdir()):
        assert video.read_bytes() == (other.videos / video.name).read_bytes()


def test_only_missing_videos_are_drawn(tmp_path: Path, short_scenes: None) -> None:
    paths = generate_corpus(tmp_path, videos=2, workers=1)
    kept, lost = sorted(paths.videos.iterdir())
    before = kept.stat().st_mtime_ns
    lost.unlink()
    steps: list[tuple[int, int]] = []
    generate_corpus(tmp_path, videos=3, workers=1, on_progress=lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert kept.stat().st_mtime_ns == before
    assert sorted(video.name for video in paths.videos.iterdir()) == [f"demo-{i:04d}.mp4" for i in range(3)]


def test_a_larger_corpus_keeps_the_queries_of_a_smaller_one(tmp_path: Path, short_scenes: None) -> None:
    few = generate_corpus(tmp_path / "few", videos=2, workers=1).annotations.read_text()
    assert generate_corpus(tmp_path / "more", videos=4, workers=1).annotations.read_text().startswith(few)


def test_a_folder_of_another_seed_is_refused(tmp_path: Path, short_scenes: None) -> None:
    generate_corpus(tmp_path, videos=1)
    with pytest.raises(DemoCorpusError, match="choose another folder"):
        generate_corpus(tmp_path, videos=1, seed=5)


def start_and_kill(folder: Path, videos: int) -> None:
    """Kill the generator when some videos are drawn, and wait until its drawing processes are gone."""
    command = [sys.executable, "-m", "mesm.pipeline.demo.videos", str(folder), "--videos", str(videos)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"2 of"):
            break
    process.kill()
    # Drawing processes hold the other end of this pipe: it ends when the last of them does.
    process.communicate(timeout=30)


@pytest.mark.slow
def test_a_killed_generator_leaves_whole_files_and_goes_on(tmp_path: Path) -> None:
    start_and_kill(tmp_path, videos=6)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "videos").glob("[!.]*.mp4")}
    assert whole
    generate_corpus(tmp_path, videos=6)
    after = {path.name: path.read_bytes() for path in (tmp_path / "videos").iterdir()}
    assert len(after) == 6
    assert whole.items() <= after.items()


def test_drawing_processes_stop_when_their_parent_was_killed(tmp_path: Path) -> None:
    start_and_kill(tmp_path, videos=60)
    assert len(list((tmp_path / "videos").glob("[!.]*.mp4"))) < 10
