"""Answers without a checkpoint: from a video file to spans, with encoders that see colours or have random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import BLUE, GREY, RED, ColourFrames, ColourSentences, write_film
from safetensors.torch import save_file
from test_hf import build_checkpoint

from mesm.extractors.contracts import SentenceEncoder
from mesm.extractors.encoders import clip
from mesm.extractors.encoders.clip import make_clip
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.extractors.errors import VideoError, WeightsError
from mesm.extractors.weights.sources import WeightSources
from mesm.model.curves.video import default_reading, find_spans, similarity
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.data.prompts import GENERIC, TEMPLATES
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.ground.zero_shot import ZeroShot, find_model, reading_by

TINY_CLIP: dict[str, Any] = {
    "architecture": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"width": 32, "heads": 2, "layers": 1},
    }
}


@pytest.fixture(scope="module")
def grounder() -> ZeroShot:
    return ZeroShot(ColourFrames(), ColourSentences())


@pytest.mark.parametrize(("query", "colour"), [("it is red", RED), ("it is blue", BLUE)])
def test_the_moment_that_a_sentence_names_is_found(
    grounder: ZeroShot, tmp_path: Path, query: str, colour: tuple[int, int, int]
) -> None:
    video = grounder.encode_video(write_film(tmp_path / "a.mp4", (6, GREY), (8, colour), (16, GREY)))
    assert video.rows == 30
    result = grounder.ground(video, query)
    best = result.moments[0]
    assert abs(best.start_s - 6) <= 2
    assert abs(best.end_s - 14) <= 2
    assert 6 <= result.saliency.argmax() < 14
    assert [m.score for m in result.moments] == sorted((m.score for m in result.moments), reverse=True)
    assert all(0 <= m.start_s < m.end_s <= video.duration_s for m in result.moments)


def test_a_moment_of_an_hour_is_found(grounder: ZeroShot) -> None:
    rows = np.random.default_rng(0).normal(0.5, 0.02, (3600, 3)).astype(np.float32)
    rows[2000:2040, 0] += 0.3
    best = grounder.ground(EncodedVideo(Path("long.mp4"), 3600.0, (rows,)), "it is red").moments[0]
    assert abs(best.start_s - 2000) <= 3
    assert abs(best.end_s - 2040) <= 3


def test_what_is_in_the_whole_video_does_not_hide_a_moment(grounder: ZeroShot) -> None:
    rows = np.full((30, 3), 0.4, np.float32)
    rows[:, 2] += 0.5
    rows[10:18, 0] += 0.2
    best = grounder.ground(EncodedVideo(Path("a.mp4"), 30.0, (rows,)), "it is red").moments[0]
    assert (best.start_s, best.end_s) == pytest.approx((10, 18), abs=1)


def test_features_are_kept_in_a_cache(grounder: ZeroShot, tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", (4, RED))
    first = grounder.encode_video(path, cache=tmp_path / "features")
    path.write_bytes(path.read_bytes())
    shards = sorted((tmp_path / "features").glob("*/shard-*"))
    assert shards
    assert np.array_equal(first.streams[0], grounder.encode_video(path, cache=tmp_path / "features").streams[0])
    assert sorted((tmp_path / "features").glob("*/shard-*")) == shards


def test_long_and_empty_queries_and_broken_videos(grounder: ZeroShot, tmp_path: Path) -> None:
    video = EncodedVideo(Path("a.mp4"), 1.0, (np.ones((1, 3), np.float32),))
    assert len(grounder.ground(video, "red").moments) == 1
    assert grounder.ground(video, "red " * 500).words_cut
    assert not grounder.ground(video, "red").words_cut
    assert not grounder.ground(video, "red " * 12).words_cut
    assert grounder.ground(video, "red " * 13).words_cut
    assert grounder.max_words == 12
    with pytest.raises(PipelineError, match="empty"):
        grounder.ground(video, " ")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    with pytest.raises(VideoError):
        grounder.encode_video(tmp_path / "broken.mp4")


def test_clip_with_random_weights_goes_the_whole_way_and_says_so(tmp_path: Path) -> None:
    sides = [
        create(name, weights="untrained:3", options=TINY_CLIP)
        for create, name in ((create_video_encoder, "clip"), (create_text_encoder, "clip-text"))
    ]
    grounder = ZeroShot(*sides)  # type: ignore[arg-type]
    assert grounder.untrained
    assert isinstance(grounder.text, SentenceEncoder)
    assert grounder.max_words == 75
    video = grounder.encode_video(write_film(tmp_path / "a.mp4", (3, GREY), (3, RED)))
    result = grounder.ground(video, "a person opens the door", top_k=2)
    assert result.moments == grounder.ground(video, "a person opens the door", top_k=2).moments
    assert np.isfinite(result.saliency).all()


@pytest.mark.parametrize("family", ["clip", "siglip", "x-clip"])
def test_a_folder_of_transformers_answers_by_the_command(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_checkpoint(tmp_path / family, family)
    film = write_film(tmp_path / "a.mp4", (6, GREY), (6, RED))
    command = ["ground", str(film), "a person opens the door", "--model", str(model), "--device", "cpu", "--json"]
    answers = []
    for _ in range(2):
        assert cli.run([*command, "--features", str(tmp_path / "features")]) == 0
        answers.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert answers[0] == answers[1]
    best = answers[0][0]
    assert best["model"] == str(model)
    assert not [note for note in best["notes"] if "untrained" in note]
    assert best["method"]["decoder"] == "overlap"
    assert best["method"]["constants"]["sharpness"] == 0.4
    assert set(best["method"]["match"]) == {"confident", "contrast", "chance"}


@pytest.mark.parametrize(("query", "confident"), [("it is red", True), ("it is loud", False)])
def test_the_command_says_when_nothing_was_found(
    query: str, confident: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZeroShot, "from_model", lambda *_: ZeroShot(ColourFrames(), ColourSentences()))
    film = write_film(tmp_path / "a.mp4", (6, GREY), (8, RED), (16, GREY))
    assert cli.run(["ground", str(film), query, "--zero-shot", "--json", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    answer = json.loads(shown.out.splitlines()[0])
    assert answer["method"]["match"]["confident"] == confident
    assert ("no confident match" in answer["notes"]) == (not confident)
    assert sum("no confident match" in line for line in shown.err.splitlines()) == (not confident)


def test_a_decoder_is_for_answers_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["ground", "a.mp4", "red", "--checkpoint", str(tmp_path), "--decoder", "path"]) == 2
    assert "--decoder with none; give one of them" in capsys.readouterr().err
    assert cli.run(["ground", "a.mp4", "red", "--decoder", "pathh", "--device", "cpu"]) == 2
    assert "did you mean 'path'" in capsys.readouterr().err


def test_kept_features_need_no_image_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_film(tmp_path / "a.mp4", (6, GREY), (6, RED))
    network = make_clip(TINY_CLIP)
    weights = tmp_path / "clip.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    monkeypatch.setattr(
        "mesm.pipeline.ground.zero_shot.find_model", lambda model: ("clip", "clip-text", str(weights), TINY_CLIP)
    )
    first = ZeroShot.from_model()
    expected = first.ground(first.encode_video(film, tmp_path / "features"), "a red door").moments
    built: list[bool] = []
    real = clip.load_tower
    monkeypatch.setattr(
        clip, "load_tower", lambda *a, images, **k: built.append(images) or real(*a, images=images, **k)
    )
    again = ZeroShot.from_model()
    assert again.ground(again.encode_video(film, tmp_path / "features"), "a red door").moments == expected
    assert built == [False]


def test_generic_sentences_are_kept_beside_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_film(tmp_path / "a.mp4", (4, GREY), (4, RED))
    asked: list[str] = []
    real = ColourSentences.encode
    monkeypatch.setattr(ColourSentences, "encode", lambda self, texts: asked.extend(texts) or real(self, texts))
    results = []
    for _ in range(2):
        grounder = ZeroShot(ColourFrames(), ColourSentences())
        results.append(grounder.ground(grounder.encode_video(film, tmp_path / "features"), "it is red"))
    assert results[0].moments == results[1].moments
    assert results[0].match == results[1].match
    assert all(asked.count(sentence) == 1 for sentence in GENERIC)


def test_a_text_encoder_without_sentences_is_refused() -> None:
    words = ColourSentences()
    words.__class__ = type("Words", (), {"name": "words", "dim": 3, "spec": {}, "encode": ColourSentences.encode})
    with pytest.raises(PipelineError, match="words has no vectors of sentences"):
        ZeroShot(ColourFrames(), words)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("ViT-B-32/openai", ("clip", "clip-text", "default", {})),
        ("ViT-B-16/laion2b_s34b_b88k", ("clip", "clip-text", "open_clip:laion2b_s34b_b88k", {"model": "ViT-B-16"})),
        ("openai/clip-vit-base-patch32", ("hf", "hf-text", "default", {"model": "openai/clip-vit-base-patch32"})),
    ],
)
def test_models_are_found_by_name(model: str, expected: tuple[Any, ...]) -> None:
    assert find_model(model) == expected


def test_a_model_without_a_tag_names_its_tags() -> None:
    with pytest.raises(PipelineError, match=r"NAME/TAG.*laion2b"):
        find_model("ViT-B-16")


def test_a_model_that_cannot_be_had_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MESM_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"https://.*--weights openai-clip-vit-b-32=PATH"):
        ZeroShot.from_model(sources=WeightSources(download=False))


@pytest.mark.parametrize(("query", "confident"), [("it is red", True), ("it is loud", False)])
def test_an_answer_is_confident_when_it_stands_out_more_than_any_sentence(
    grounder: ZeroShot, query: str, confident: bool
) -> None:
    rows = np.random.default_rng(0).normal(0.5, 0.02, (60, 3)).astype(np.float32)
    rows[20:32, 0] += 0.3
    match = grounder.ground(EncodedVideo(Path("a.mp4"), 60.0, (rows,)), query).match
    assert match is not None
    assert match.confident == confident
    assert match == grounder.ground(EncodedVideo(Path("a.mp4"), 60.0, (rows,)), query).match


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_nothing_stands_out_where_all_rows_are_alike(grounder: ZeroShot, rows: int) -> None:
    video = EncodedVideo(Path("a.mp4"), float(rows), (np.full((rows, 3), 0.4, np.float32),))
    match = grounder.ground(video, "it is red").match
    assert match is not None
    assert not match.confident


def test_chance_is_that_of_the_video_that_is_asked(grounder: ZeroShot) -> None:
    """Videos are asked in turn, and what is kept of one is not taken for another."""
    random = np.random.default_rng(1)
    videos = [EncodedVideo(Path("a.mp4"), 40.0, (random.random((40, 3)).astype(np.float32),)) for _ in range(2)]
    first, second = (grounder.ground(video, "it is red").match for video in videos)
    assert first != second
    assert grounder.ground(videos[0], "it is red").match == first


def test_the_fingerprint_states_procedure_and_constants() -> None:
    grounders = [
        ZeroShot(ColourFrames(), ColourSentences(), reading=reading)
        for reading in (default_reading(), reading_by("path"), replace(default_reading(), smoothed_s=7.0))
    ]
    assert len({grounder.fingerprint for grounder in grounders}) == 3
    assert grounders[0].fingerprint == ZeroShot(ColourFrames(), ColourSentences()).fingerprint
    assert grounders[1].spec["decoder"] == "path"
    assert grounders[1].spec["constants"]["stay"] == 0.99
    assert grounders[2].spec["constants"]["smoothed_s"] == 7.0
    with pytest.raises(PipelineError, match=r"--decoder: .*did you mean 'path'"):
        reading_by("pathh")


def test_another_procedure_gives_other_spans(grounder: ZeroShot) -> None:
    rows = np.random.default_rng(3).random((50, 3)).astype(np.float32)
    video = EncodedVideo(Path("a.mp4"), 50.0, (rows,))
    other = ZeroShot(ColourFrames(), ColourSentences(), reading=reading_by("path"))
    assert grounder.ground(video, "it is red").moments != other.ground(video, "it is red").moments


def test_a_search_can_use_the_same_vectors(grounder: ZeroShot) -> None:
    sentence, cut = grounder.sentence(" it is red ")
    assert np.linalg.norm(sentence) == pytest.approx(1)
    assert not cut
    assert grounder.sentence("red " * 500)[1]
    assert grounder.generic.shape == sentence.shape
    rows = np.random.default_rng(3).random((50, 3)).astype(np.float32)
    curve = similarity(rows, sentence, grounder.generic)
    result = grounder.ground(EncodedVideo(Path("a.mp4"), 50.0, (rows,)), "it is red")
    np.testing.assert_allclose(result.saliency, curve, atol=1e-6)
    spans = find_spans(curve, 1.0, grounder.reading, rows)
    assert [(m.start_s, m.end_s) for m in result.moments] == [(s, e) for s, e, _ in spans[:5].tolist()]


def test_generic_sentences_are_forty_different_ones() -> None:
    assert len(set(GENERIC)) == 40
    assert TEMPLATES[0] == "{}"
