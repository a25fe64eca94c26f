"""`check` finds what it says, and its guesses are made without looking at the queries that they are scored on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_training import make_corpus, tiny_config

from mesm.datasets.annotations.records import Annotation
from mesm.pipeline import cli
from mesm.pipeline.config.load import load_config
from mesm.pipeline.evaluate.annotation_check import AnnotationCheck, check_annotations
from mesm.pipeline.evaluate.predict import protocol_of

PROTOCOL = protocol_of(load_config("charades-mini"))


def of(query_id: int, video: str, query: str, *moments: tuple[float, float]) -> Annotation:
    return Annotation(query_id, video, query, moments, 10.0, None, "train")


def looked_through(annotations: list[Annotation]) -> AnnotationCheck:
    return check_annotations(annotations, {a.video_id: 10.0 for a in annotations}, PROTOCOL)


def test_doubtful_moments_are_named() -> None:
    found = looked_through(
        [
            of(0, "a", "somebody nods", (1.0, 1.5)),
            of(1, "a", "somebody sits", (0.0, 9.5)),
            of(2, "b", "somebody runs", (0.0, 3.0)),
            of(3, "b", "somebody runs", (5.0, 9.0)),
            of(4, "b", "somebody walks", (5.0, 9.0)),
            of(5, "c", "somebody sleeps"),
        ]
    )
    assert [(doubt.kind, doubt.query_id) for doubt in found.doubts] == [
        ("short", 0),
        ("nearly the whole video", 1),
        ("contradiction", 2),
    ]
    assert found.facts["queries"] == "6, 5 different sentences"
    assert found.facts["without a moment"] == "1"
    assert found.facts["told several times"] == "1 of 4 places in videos"
    assert found.guesses is None


def test_a_guess_is_made_from_other_videos() -> None:
    """All moments of a video are alike and those of any two videos lie apart: other videos say nothing."""
    apart = [of(i, f"v{i // 2}", "somebody moves", (i // 2 * 2.0, i // 2 * 2.0 + 2.0)) for i in range(10)]
    alike = [of(i, f"v{i // 2}", "somebody moves", (2.0, 6.0)) for i in range(10)]
    for queries, expected in ((apart, 0.0), (alike, 100.0)):
        guesses = looked_through(queries).guesses
        assert guesses is not None
        rows = dict(guesses.rows)
        assert rows["best fixed window"][guesses.columns.index("R1@0.7")] == expected
        assert rows["whole video"][guesses.columns.index("mIoU")] == pytest.approx(20.0 if expected == 0 else 40.0)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    make_corpus(tmp_path, videos=6)
    tiny_config(tmp_path)
    return tmp_path


def test_the_command_prints_facts_doubts_and_guesses(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = corpus / "annotations" / "train.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["video_id"] = "elsewhere"
    lines[1]["moments"] = [[1.0, 1.25]]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    place = [str(corpus / "annotations"), "--config", str(corpus / "tiny.yaml"), "--features", str(corpus / "features")]
    assert cli.run(["check", *place]) == 0
    printed = capsys.readouterr().out
    assert "without features: 2" in printed
    assert "query 0, video elsewhere: not in first-" in printed
    assert "query 1, video v00: 1.0 to 1.2 s, 0.25 s" in printed
    assert "best fixed window" in printed
    assert "words without a vector" not in printed
    assert cli.run(["check", *place, "--split", "test"]) == 0
    assert "without features" not in capsys.readouterr().out


def test_words_without_a_vector_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tiny_training import write_word_table

    make_corpus(tmp_path, videos=6)
    table = write_word_table(tmp_path / "features")
    overrides = ["--set", "features.text.encoder=glove"]
    tiny_config(tmp_path)
    file = tmp_path / "annotations" / "train.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert "zebra" not in table.words
    lines[0]["query"] = lines[1]["query"] = "somebody lifts zebra"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = ["--config", str(tmp_path / "tiny.yaml"), "--features", str(tmp_path / "features")]
    assert cli.run(["check", str(tmp_path / "annotations"), *config, *overrides]) == 0
    assert "zebra (2)" in capsys.readouterr().out
