"""Tables of word vectors: what goes in comes out, and lookups take many words at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shared import shared_path

from mesm.datasets.errors import FeatureError
from mesm.datasets.text.word_vectors import WordVectors

WORDS = ("<PAD>", "person", "öffnet", "door")


def table() -> WordVectors:
    vectors = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    vectors[0] = 0
    return WordVectors(WORDS, vectors, {"door": 7, "person": 3})


def assert_equal(left: WordVectors, right: WordVectors) -> None:
    assert left.words == right.words
    np.testing.assert_array_equal(left.vectors, right.vectors)
    assert list(left.counts.items()) == list(right.counts.items())


def test_saving_and_loading(tmp_path: Path) -> None:
    table().save(tmp_path / "glove.safetensors")
    assert_equal(WordVectors.load(tmp_path / "glove.safetensors"), table())
    table().save(tmp_path / "glove.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["glove.safetensors"]


def test_lookup_of_many_words() -> None:
    words = ["door", "unknown", "person", "door"]
    assert table().rows(words).tolist() == [3, -1, 1, 3]
    found = table().lookup(words)
    np.testing.assert_array_equal(found, table().vectors[[3, 0, 1, 3]])
    assert not found[1].any()
    assert table().lookup([]).shape == (0, 5)


def test_npz_with_and_without_counts(tmp_path: Path) -> None:
    words, vectors = np.array(WORDS), table().vectors
    np.savez(tmp_path / "bare.npz", words=words, vectors=vectors)
    assert_equal(WordVectors.from_npz(tmp_path / "bare.npz"), WordVectors(WORDS, vectors))
    counter = {"counter_words": np.array(["door", "person"]), "counter_counts": np.array([7, 3])}
    np.savez(tmp_path / "full.npz", words=words, vectors=vectors, **counter)  # type: ignore[arg-type]
    assert_equal(WordVectors.from_npz(tmp_path / "full.npz"), table())


@pytest.mark.parametrize(
    ("words", "vectors", "message"),
    [
        (("a", "b"), np.zeros((3, 2), np.float32), "2 words have vectors of shape"),
        (("a", "a"), np.zeros((2, 2), np.float32), "1 words occur twice"),
        (("a", "b"), np.ones((2, 2), np.float32), "row 0 of the word vectors is not zero"),
        (("a", "b"), np.zeros((2, 2)), "expected finite float32"),
        (("a", "b"), np.full((2, 2), np.inf, np.float32), "expected finite float32"),
    ],
)
def test_tables_that_make_no_sense_are_refused(words: tuple[str, ...], vectors: np.ndarray, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        WordVectors(words, vectors)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "words"
    path.write_bytes(content)
    with pytest.raises(FeatureError, match="no table of word vectors"):
        WordVectors.load(path)
    with pytest.raises(FeatureError, match="cannot be read as word vectors"):
        WordVectors.from_npz(path)


def test_pickled_words_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", words=np.array(WORDS, object), vectors=table().vectors)
    with pytest.raises(FeatureError, match="cannot be read as word vectors"):
        WordVectors.from_npz(tmp_path / "p.npz")


def test_the_table_of_charades(tmp_path: Path) -> None:
    words = WordVectors.from_npz(shared_path("charades-mini/glove_charades.npz"))
    assert (len(words.words), words.dim, len(words.counts)) == (1146, 300, 1145)
    words.save(tmp_path / "glove.safetensors")
    assert_equal(WordVectors.load(tmp_path / "glove.safetensors"), words)
