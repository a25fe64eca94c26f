"""Many queries that say the same: each sentence is looked at once, however many queries say it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import TEXT_DIM, make_corpus, tiny_config, workspace_of, write_texts

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline.config.schema import TextFeatureConfig
from mesm.pipeline.data import texts
from mesm.pipeline.data.frames import FrameTable
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import StoredText, VectorText

REPEATED = 50


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path, videos=4, test_videos=1)


def queries(count: int) -> list[Annotation]:
    sentences = ("somebody opens a thing", "somebody closes a thing", "somebody lifts a thing")
    return [Annotation(i, "v", sentences[i % 3], ((1.0, 3.0),), 8.0, None, "train") for i in range(count)]


def test_the_words_of_a_sentence_are_read_once(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(corpus)
    write_texts(corpus / "features", [query.query for query in queries(3)])
    asked: Counter[str] = Counter()
    read = StoredText.words

    def words(self: StoredText, query: str) -> object:
        asked[query] += 1
        return read(self, query)

    monkeypatch.setattr(StoredText, "words", words)
    text = text_kind("states").from_folder(workspace_of(corpus, config).features, config).source
    annotations = queries(3 * REPEATED)
    vocabulary = text.make_vocabulary([a.query for a in annotations], None)
    assert set(asked.values()) == {1}
    few = text.make_vocabulary([a.query for a in queries(3)], None)
    assert vocabulary == few
    asked.clear()
    frames = FrameTable({"v": np.ones((8, 4), np.float32)})
    data = MomentData(annotations, frames, text, vocabulary, config.dataset)
    assert set(asked.values()) == {1}
    # Here a vector depends on its token alone, and each stands there once.
    held = len({token for query in queries(3) for token in read(text, query.query).tokens})
    assert data._words.shape == (held + 1, TEXT_DIM)
    alone = MomentData(annotations[:3], frames, text, vocabulary, config.dataset)
    for i in range(3):
        for repeat in (i, i + 3 * (REPEATED - 1)):
            found, wanted = data.batch([repeat], [0]).words, alone.batch([i], [0]).words
            assert torch.equal(found.vectors, wanted.vectors)
    every = torch.cat([*data.words_of_all()])
    assert torch.equal(every, torch.cat([*alone.words_of_all()]).repeat(REPEATED, 1))


def test_a_sentence_is_cut_into_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()

    def split(text: str, rule: str) -> list[str]:
        asked[text] += 1
        return text.split()

    monkeypatch.setattr(texts, "split_words", split)
    table = WordVectors(("", "somebody"), np.array([[0.0], [1.0]], np.float32))
    source = VectorText(table, TextFeatureConfig(encoder="glove"), 6)
    vocabulary = source.make_vocabulary([query.query for query in queries(3 * REPEATED)], None)
    assert set(asked.values()) == {1}
    assert vocabulary.tokens[:3] == ("somebody", "a", "thing")
