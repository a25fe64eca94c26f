from __future__ import annotations

import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from shared import shared_path

from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.errors import DatasetError
from mesm.datasets.text.vocabulary import read_word_counts
from mesm.datasets.text.words import piece_weights, split_words, treebank_words, word_weights


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The person cuts it.", "the person cuts it ."),
        ("He doesn't, she's; they\u2019ll", "he does n't , she 's ; they 'll"),
        ("I can't and cannot; won't", "i ca n't and can not ; wo n't"),
        (
            "Cuts width-wise (1/4 inch) and/or 1,000 at 6:30.",
            "cuts width-wise ( 1/4 inch ) and/or 1,000 at 6:30 .",
        ),
        ("Dr. Who waits... at 1.5 m -- no!", "dr. who waits ... at 1.5 m -- no !"),
        ('the "good" bowl', 'the " good " bowl'),
        ("NOT 'scrambled' eggs", "not ' scrambled ' eggs"),
        ("the cooks' hats", "the cooks ' hats"),
        ("One step. Two steps.", "one step . two steps ."),
        ("#5 & #6 cost $3", "# 5 & # 6 cost $ 3"),
        ("'", "'"),
        ("", ""),
    ],
)
def test_treebank_words(text: str, words: str) -> None:
    assert treebank_words(text) == words.split()


def test_letters_and_alphanumeric() -> None:
    assert split_words("The 2nd person's\u2019 Box-2", "letters") == ["the", "nd", "person's'", "box"]
    assert split_words("The 2nd person's Box-2", "alphanumeric") == ["the", "2nd", "person", "s", "box", "2"]
    with pytest.raises(DatasetError, match="unknown rule"):
        split_words("x", "spaces")  # type: ignore[arg-type]


@pytest.mark.parametrize(("reader", "folder"), [("tacos", "TACoS"), ("charades-sta", "charades")])
def test_alphanumeric_words_of_train_and_test_have_the_published_counts(reader: str, folder: str) -> None:
    root = shared_path(f"annotations/{folder}")
    queries = [entry.query for split in ("train", "test") for entry in read_annotations(reader, root, split)]
    counts = Counter(word for query in queries for word in split_words(query, "alphanumeric"))
    lines = (root / "annotations/GloVe_tokenized_count.txt").read_text().splitlines()
    assert counts == {line.split()[0]: int(line.split()[2]) for line in lines}


def test_share_of_unknown_treebank_words_in_tacos_is_the_published_one() -> None:
    root = shared_path("annotations/TACoS")
    known = set(read_word_counts(root / "annotations/GloVe_tokenized_count.txt", 10_000).tokens)
    queries = [entry.query for split in ("train", "test") for entry in read_annotations("tacos", root, split)]
    words = [word for query in queries for word in treebank_words(query)[:16]]
    unknown = Counter(word for word in words if word not in known)
    assert 0.085 < unknown.total() / len(words) < 0.1
    assert 0.78 < unknown["."] / unknown.total() < 0.9


def test_charades_mini_words_are_known_but_for_33() -> None:
    root = shared_path("charades-mini")
    with np.load(root / "glove_charades.npz") as vectors:
        known = set(vectors["words"].tolist())
    queries = [entry.query for entry in read_annotations("charades-sta", root, "train")]
    words = [split_words(query, "letters") for query in queries]
    dropped = sum(word not in known for query in words for word in query)
    assert sum(map(len, words)) == 18581
    assert dropped == 33


def test_content_words_weigh_twice_as_much() -> None:
    words = treebank_words("a man isn't quickly opening the 2 old doors,")
    assert word_weights(words).tolist() == [1, 2, 2, 2, 2, 2, 1, 1, 2, 2, 1]
    assert word_weights([]).tolist() == []
    with pytest.raises(DatasetError, match="expected closed-class or nltk"):
        word_weights(words, "spacy")  # type: ignore[arg-type]


def test_pieces_of_a_word_weigh_as_much_as_the_word() -> None:
    pieces = [
        "<start_of_text>",
        "a</w>",
        "the",
        "rm",
        "os</w>",
        "under",
        "neath</w>",
        ".</w>",
        "<end_of_text>",
    ]
    assert piece_weights(pieces).tolist() == [0, 1, 2, 2, 2, 1, 1, 1, 0]
    assert piece_weights(["the</w>", "fri"]).tolist() == [1, 2]
    assert piece_weights(["the", "fridge"]).tolist() == [1, 2]
    assert piece_weights(["<start_of_text>", "<end_of_text>"]).tolist() == [0, 0]


def test_nltk_tags_decide_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = {"up": "RB", "man": "NN", "the": "DT", "opened": "VBD", "when": "WRB"}
    tagger = SimpleNamespace(
        pos_tag=lambda words: [(word, tags[word]) for word in words],
        word_tokenize=lambda text: text.split(),
    )
    monkeypatch.setitem(sys.modules, "nltk", tagger)
    assert word_weights(list(tags), "nltk").tolist() == [2, 2, 1, 2, 2]
    assert piece_weights(["<start_of_text>", "the</w>", "man</w>"], "nltk").tolist() == [0, 1, 2]
    assert split_words("The Man", "nltk") == ["the", "man"]


def test_missing_nltk_and_missing_data_are_clear_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise LookupError("no data")

    monkeypatch.setitem(sys.modules, "nltk", SimpleNamespace(pos_tag=fail, word_tokenize=fail))
    with pytest.raises(DatasetError, match=r"nltk\.downloader averaged_perceptron_tagger_eng"):
        word_weights(["a"], "nltk")
    with pytest.raises(DatasetError, match=r"nltk\.downloader punkt_tab"):
        split_words("a", "nltk")
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(DatasetError, match="not installed: run `pip install"):
        word_weights(["a"], "nltk")
