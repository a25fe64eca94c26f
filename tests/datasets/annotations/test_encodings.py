"""Text files as programs of other systems save them: read, or named for what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.errors import DatasetError
from mesm.datasets.plain_text import read_plain_text
from mesm.datasets.text.vocabulary import read_word_counts
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.evaluate.predictions import load_predictions

SENTENCE = "a man opens the café"
HIGHLIGHT = {"qid": 1, "query": SENTENCE, "vid": "v", "duration": 150, "relevant_windows": [[0, 2]]}
OWN = {"query_id": 1, "video_id": "v", "query": SENTENCE, "moments": [[0, 2]]}
PREDICTION = {"qid": 1, "query": SENTENCE, "vid": "v", "pred_relevant_windows": [[0, 2, 0.9]]}


def lines(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read_table(path: Path) -> object:
    (path.parent / "charades_sta_train.txt").write_text(f"v 0.0 2.0##{SENTENCE}\n", encoding="utf-8")
    return read_annotations("charades-sta", path.parent, "train")


KINDS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "jsonl": ("val.jsonl", lines(OWN), lambda p: read_annotations("jsonl", p.parent, "val")),
    "qvhighlights": (
        "highlight_val_release.jsonl",
        lines(HIGHLIGHT),
        lambda p: read_annotations("qvhighlights", p.parent, "val"),
    ),
    "video json": (
        "val_1.json",
        json.dumps(
            {"v": {"duration": 9, "timestamps": [[0, 2]], "sentences": [SENTENCE]}}, ensure_ascii=False, indent=1
        ),
        lambda p: read_annotations("activitynet", p.parent, "val_1"),
    ),
    "charades durations": ("Charades_v1_train.csv", "id,scene,length\nv,café,9.5\n", read_table),
    "counts": ("GloVe_tokenized_count.txt", "café 1 9\ndoor 2 5\n", lambda p: read_word_counts(p, 5)),
    "predictions": ("predictions.jsonl", lines(PREDICTION), lambda p: [x.as_record() for x in load_predictions(p)]),
    "configuration": (
        "config.yaml",
        "# café\nname: café\ntrain:\n  epochs: 3\n",
        lambda p: (load_config(str(p)).name, load_config(str(p)).train),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_marks_line_ends_and_blank_lines_change_nothing(tmp_path: Path, kind: str) -> None:
    name, text, read = KINDS[kind]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    wanted = read(path)
    variants = [
        text.encode("utf-8-sig"),
        text.replace("\n", "\r\n").encode(),
        text.replace("\n", "\r").encode(),
        text.replace("\n", "\r\n").encode("utf-8-sig"),
        f"{text}\n\n".encode(),
        f"\n\r\n{text}".encode(),
        f"\n{text}".replace("\n", "\r\n\r\n").encode("utf-8-sig"),
    ]
    for content in variants:
        path.write_bytes(content)
        assert read(path) == wanted, content[:30]


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-16", "expected UTF-8 text, found UTF-16; save it as UTF-8"),
        ("utf-32", "found UTF-32; save it as UTF-8"),
        ("latin-1", r"found byte 0xe9 in line \d+, as in Latin-1"),
        ("cp1252", r"found byte 0xe9 in line \d+, as in Latin-1"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_other_encodings_are_named(tmp_path: Path, kind: str, encoding: str, words: str) -> None:
    name, text, read = KINDS[kind]
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises((DatasetError, PipelineError), match=words) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"PK\x03\x04\xff", "zip archive"), (b"\x1f\x8b\x08\xff", "gzip archive"), (b"\x00\xff\x00", "no text")],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_plain_text(tmp_path / "a")


def test_a_text_without_an_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ValueError, match="at most 1 MiB"):
        read_plain_text(Path("/dev/zero"), 2**20)


@pytest.mark.parametrize("before", ["", "\n", "\r\n\n", "\ufeff\n"])
def test_truth_is_recognised_behind_blank_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str
) -> None:
    (tmp_path / "truth.jsonl").write_bytes((before + lines(HIGHLIGHT)).encode())
    (tmp_path / "predictions.jsonl").write_text(lines(PREDICTION), encoding="utf-8")
    places = ["--predictions", str(tmp_path / "predictions.jsonl"), "--annotations", str(tmp_path / "truth.jsonl")]
    assert cli.run(["evaluate", *places, "--split", "val", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["val"]["predictions.jsonl"]
    assert figures["brief"]["MR-full-R1@0.5"] == 100
    (tmp_path / "truth.jsonl").write_bytes((before + lines(HIGHLIGHT)).encode("utf-16"))
    assert cli.run(["evaluate", *places, "--split", "val", "--json"]) == 2
    assert "truth.jsonl: expected UTF-8 text, found UTF-16" in capsys.readouterr().err
