"""A network without parameters is evaluated and compared without any checkpoint, on features of one model alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_training import write_word_table

from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.shards.fingerprints import fingerprint, text_key
from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.contracts import TextFeatures
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.data import sentences as stage
from mesm.pipeline.data.prompts import GENERIC, TEMPLATES
from mesm.pipeline.evaluate.predict import predict
from mesm.pipeline.evaluate.trained import load_evaluation_data, without_training
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.ground.zero_shot import ZeroShot

CPU = torch.device("cpu")
DIM, OTHER = 16, 5
SPEC = {"weights": "sha256:0", "dim": DIM}
TEXT_SPEC = {"encoder": "clip-text", **SPEC}
QUERIES = ("a red door", "a blue cup", "a green cat")
CONTENT: dict[str, Any] = {
    "dataset": {"reader": "jsonl", "test_splits": ["test"], "max_rows": 40},
    "features": {"video": [{"encoder": "motion"}, {"encoder": "clip"}]},
}


class Words:
    """A sentence is the sum of a direction a word; forms of a sentence differ by the words that they add."""

    name, dim, max_tokens, special_tokens = "clip-text", DIM, 77, 2
    spec: Mapping[str, Any] = TEXT_SPEC

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[TextFeatures]:
        self.asked += texts
        ids = [np.array([49406, *(len(word) for word in text.split()), 49407]) for text in texts]
        return [
            TextFeatures(np.ones((len(row), DIM), np.float32), row, sentence(text))
            for text, row in zip(texts, ids, strict=True)
        ]


def word(text: str) -> np.ndarray:
    return np.random.default_rng([ord(letter) for letter in text]).standard_normal(DIM)


def sentence(text: str) -> np.ndarray:
    return np.sum([word(part) for part in text.split()], axis=0).astype(np.float32)


def write_corpus(folder: Path, texts: Sequence[str] = (), spec: Mapping[str, Any] = SPEC) -> Path:
    """Films in which what a query names is seen for a while; the motion features show nothing of it."""
    random = np.random.default_rng(1)
    records = []
    streams: dict[str, list[np.ndarray]] = {}
    for number in range(6):
        rows = 20 + number
        frames = 0.3 * random.standard_normal((rows, DIM))
        query, start = QUERIES[number % 3], (2, 13, 5, 14, 1, 9)[number]
        frames[start : start + 7] += sentence(query)
        streams[f"v{number}"] = [random.standard_normal((rows, OTHER)), frames]
        moment = [start, start + 7]
        records.append({"query_id": number, "video_id": f"v{number}", "query": query, "moments": [moment]})
        records[-1]["duration_s"] = rows
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in (("train", records[:2]), ("test", records)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "films.yaml").write_text(yaml.safe_dump(CONTENT))
    for place, (name, known) in enumerate((("motion", {"dim": OTHER}), ("clip", spec))):
        whole = {"encoder": name, "clip_len_s": 1.0, **known}
        with FeatureFolder.create_or_open(folder / "features", name, whole).writer() as writer:
            for video, arrays in streams.items():
                writer.add(video, {"features": arrays[place].astype(np.float16)}, clip_len_s=1.0)
            writer.publish()
    stored = FeatureFolder.create_or_open(folder / "features", "clip-text", TEXT_SPEC)
    with stored.writer() as writer:
        for text in texts or QUERIES:
            (one,) = Words().encode([text])
            writer.add(
                text_key(text), {"tokens": one.tokens, "token_ids": one.token_ids, "pooled": np.asarray(one.pooled)}
            )
        writer.publish()
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Words:
    words = Words()
    monkeypatch.setattr(stage, "create_text_encoder", lambda *_, **__: words)
    return words


def run(corpus: Path, *options: str) -> int:
    command = ["evaluate", "--network", "zero-shot", "--config", str(corpus / "films.yaml"), *options]
    return cli.run([*command, "--features", str(corpus / "features"), "--annotations", str(corpus), "--device", "cpu"])


def test_the_command_scores_it_beside_controls_and_writes_a_page(
    corpus: Path, encoder: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(corpus, "--controls", "--out", str(tmp_path / "out"), "--json") == 0
    scores = json.loads(capsys.readouterr().out)["test"]
    own, blind, other = (scores[name] for name in ("films, zero-shot", "without the video", "with another video"))
    assert own["brief"]["MR-full-R1@0.5"] > 80
    assert own["brief"]["MR-full-miou"] > max(blind["brief"]["MR-full-miou"], other["brief"]["MR-full-miou"]) + 20
    assert "whole video" in scores
    assert len((tmp_path / "out" / "predictions-test.jsonl").read_text().splitlines()) == 6
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Without training" in page
    assert "films, zero-shot" in page
    assert not list((tmp_path / "out").glob("checkpoint*"))


def test_forms_of_a_query_that_are_lacking_are_encoded_once(corpus: Path, encoder: Words, tmp_path: Path) -> None:
    assert run(corpus, "--out", str(tmp_path / "out")) == 0
    forms = {form.format(query) for query in QUERIES for form in TEMPLATES}
    assert set(encoder.asked) == (forms | set(GENERIC)) - set(QUERIES)
    assert run(corpus, "--out", str(tmp_path / "out")) == 0
    assert len(encoder.asked) == len(set(encoder.asked))


def test_without_forms_no_encoder_is_needed(corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stage, "create_text_encoder", lambda *_, **__: pytest.fail("an encoder was built"))
    assert run(corpus, "--set", "model.prompts=false", "--out", str(tmp_path / "out")) == 0


def test_answers_are_those_of_ground(corpus: Path, encoder: Words, tmp_path: Path) -> None:
    """Of videos below the length at which rows are pooled."""
    config = load_config(corpus / "films.yaml", network="zero-shot")
    model = without_training(config, tmp_path / "out", CPU)
    queries = read_annotations("jsonl", corpus, "test")
    data = load_evaluation_data(model, queries, corpus / "features")
    images = FeatureFolder.all_in(corpus / "features")
    (clip,) = [folder for folder in images if folder.name == "clip"]

    class Images:
        name, dim, clip_len_s, spec = "clip", DIM, 1.0, SPEC

    grounder = ZeroShot(Images(), Words())  # type: ignore[arg-type]
    for query, prediction in zip(queries, predict(model.network, data, model.config), strict=True):
        assert query.duration_s is not None
        rows = np.asarray(clip.read(query.video_id)["features"])
        video = EncodedVideo(Path(query.video_id), query.duration_s, (rows,))
        moments = grounder.ground(video, query.query, top_k=10).moments
        expected = np.array([(moment.start_s, moment.end_s) for moment in moments])
        np.testing.assert_allclose(prediction.windows[: len(expected), :2], expected, atol=1e-3)


def test_a_comparison_measures_it_without_training(
    corpus: Path, encoder: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "--networks", "zero-shot", "--config", str(corpus / "films.yaml"), "--seeds", "1,2"]
    place = ["--features", str(corpus / "features"), "--annotations", str(corpus), "--device", "cpu"]
    assert cli.run([*command, *place, "--out", str(tmp_path / "out")]) == 0
    assert "Nothing is trained of zero-shot" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    found = record["splits"]["test"]["networks"]["zero-shot"]
    assert found["scores"]["R1@0.5"]["mean"] > 80
    assert found["parameters"] == 0
    assert (tmp_path / "out" / "zero-shot" / "predictions-test.jsonl").exists()
    count = len(encoder.asked)
    assert cli.run([*command, *place, "--out", str(tmp_path / "out")]) == 0
    assert len(encoder.asked) == count


def test_training_is_refused_in_one_line(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--network", "zero-shot", "--config", str(corpus / "films.yaml"), "--annotations", str(corpus)]
    assert cli.run([*command, "--features", str(corpus / "features"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has nothing to learn" in line
    assert "evaluate --network zero-shot" in line
    assert not (tmp_path / "out").exists()


def refusal(corpus: Path, tmp_path: Path, *overrides: str) -> str:
    config = load_config(corpus / "films.yaml", overrides, network="zero-shot")
    model = without_training(config, tmp_path / "out", CPU)
    with pytest.raises(PipelineError) as caught:
        load_evaluation_data(model, read_annotations("jsonl", corpus, "test"), corpus / "features")
    return str(caught.value)


def test_vectors_of_words_are_refused(corpus: Path, tmp_path: Path) -> None:
    write_word_table(corpus / "features")
    text = refusal(corpus, tmp_path, "features.text.encoder=glove")
    assert "glove has no vectors of sentences" in text
    assert "clip beside clip-text" in text


def test_frames_of_another_model_are_refused(tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", spec={**SPEC, "weights": "sha256:1"})
    assert 'weights: found "sha256:1", expected "sha256:0"' in refusal(other, tmp_path)
    text = refusal(other, tmp_path, "features.video=[{encoder: motion}]")
    assert "none of the frame features (motion) is of the model of clip-text" in text


def test_states_without_sentence_vectors_are_refused(corpus: Path, tmp_path: Path) -> None:
    bare = {"tokens": np.ones((2, DIM), np.float32), "token_ids": np.array([1, 2])}
    folder = FeatureFolder.create_or_open(corpus / "features", "clip-text", {**TEXT_SPEC, "encoder": "bare"})
    with folder.writer() as writer:
        for query in QUERIES:
            writer.add(text_key(query), bare)
        writer.publish()
    chosen = f"features.text.fingerprint={folder.fingerprint}"
    assert "no vectors of sentences" in refusal(corpus, tmp_path, chosen, "model.prompts=false")


def test_another_encoder_than_that_of_the_features_is_refused(corpus: Path, tmp_path: Path, encoder: Words) -> None:
    encoder.spec = {**TEXT_SPEC, "weights": "sha256:7"}
    assert fingerprint(encoder.spec) != fingerprint(TEXT_SPEC)
    text = refusal(corpus, tmp_path)
    assert 'weights: found "sha256:0", expected "sha256:7"' in text
    assert "model.prompts=false" in text
    assert encoder.asked == []


def test_random_weights_are_said_to_be_meaningless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_corpus(tmp_path / "random", spec={"weights": "untrained:0", "dim": DIM})
    stored = FeatureFolder.create_or_open(folder / "features", "clip-text", {**TEXT_SPEC, "weights": "untrained:0"})
    with stored.writer() as writer:
        for query in QUERIES:
            (one,) = Words().encode([query])
            arrays = {"tokens": one.tokens, "token_ids": one.token_ids, "pooled": np.asarray(one.pooled)}
            writer.add(text_key(query), arrays)
        writer.publish()
    chosen = load_config(
        folder / "films.yaml",
        ["model.prompts=false", f"features.text.fingerprint={stored.fingerprint}"],
        network="zero-shot",
    )
    model = without_training(chosen, tmp_path / "out", CPU)
    load_evaluation_data(model, read_annotations("jsonl", folder, "test"), folder / "features")
    assert "random: these figures are meaningless" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "give either a run directory or --predictions"),
        (["runs/a", "--network", "zero-shot"], "give either a run directory or --predictions"),
        (["runs/a", "--config", "demo"], "go with --network"),
        (["--network", "mesm", "--config", "demo"], "has to be trained.*zero-shot"),
        (["--network", "zero-shto", "--config", "demo"], "did you mean 'zero-shot'"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    options: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["evaluate", *options]) == 2
    text = capsys.readouterr().err
    assert re.search(expected, text), text
