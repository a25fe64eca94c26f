"""Words of a query: cut to the network's length, normalised, known or not, with the weights that masking draws by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import shared_path
from tiny_training import TEXT_DIM, make_corpus, token_ids, write_streams, write_texts, write_word_table

from mesm.datasets.errors import FeatureError
from mesm.datasets.text.vocabulary import CLIP_END_ID, CLIP_START_ID
from mesm.datasets.text.word_vectors import WordVectors
from mesm.extractors.contracts import TextFeatures
from mesm.extractors.encoders.clip_pieces import token_pieces
from mesm.pipeline.config.schema import Config, FeaturesConfig, TextFeatureConfig, VideoFeatureConfig
from mesm.pipeline.data.folders import find_features, open_streams
from mesm.pipeline.data.text_kinds import OpenedText, text_kind
from mesm.pipeline.data.texts import LiveText, StoredText, VectorText, texts_of

GLOVE = TextFeatureConfig(encoder="glove")
CLIP = TextFeatureConfig(encoder="clip-text")


@dataclass
class _Encoder:
    """Returns given token ids and states that say which token they belong to."""

    ids: np.ndarray
    dim: int = 4

    def encode(self, texts: list[str]) -> list[TextFeatures]:
        states = np.zeros((len(self.ids), self.dim), np.float32)
        states[:, 0] = self.ids
        states[:, 1] = 1
        return [TextFeatures(states, self.ids, states[-1])]


def clip_ids(*words: str) -> np.ndarray:
    number = {piece: token for token, piece in token_pieces().items()}
    return np.array([CLIP_START_ID, *(number[f"{word}</w>"] for word in words), CLIP_END_ID])


def test_long_text_keeps_its_first_words_and_the_end_token() -> None:
    ids = np.array([CLIP_START_ID, *range(10, 40), CLIP_END_ID])
    words = LiveText(_Encoder(ids), TextFeatureConfig(encoder="hf-text"), max_words=6).words("a long query")
    assert words.tokens == (CLIP_START_ID, 10, 11, 12, 13, CLIP_END_ID)
    assert len(words.vectors) == len(words.weights) == 6
    ratio = words.vectors[:, 0] / words.vectors[:, 1]
    np.testing.assert_allclose(ratio, ids[[0, 1, 2, 3, 4, -1]], rtol=1e-5)


def test_text_of_just_the_length_is_not_cut() -> None:
    ids = np.array([CLIP_START_ID, 10, 11, CLIP_END_ID])
    words = LiveText(_Encoder(ids), TextFeatureConfig(encoder="hf-text"), max_words=4).words("q")
    assert words.tokens == tuple(ids)


def test_word_vectors_have_length_one_and_zeros_stay_zeros() -> None:
    table = WordVectors(("", "big", "nought"), np.array([[0, 0], [300, 400], [0, 0]], np.float32))
    words = VectorText(table, GLOVE, 4).words("big nought")
    np.testing.assert_allclose(words.vectors, [[0.6, 0.8], [0, 0]])


def test_content_words_of_clip_weigh_two_and_the_ends_nothing() -> None:
    words = LiveText(_Encoder(clip_ids("the", "dog", "opens", "a", "door")), CLIP, 16).words("the dog opens a door")
    assert words.weights.tolist() == [0, 1, 2, 2, 1, 2, 0]


def test_ends_of_another_encoder_are_never_masked() -> None:
    source = LiveText(_Encoder(np.array([CLIP_START_ID, 5, 6, CLIP_END_ID])), TextFeatureConfig(encoder="hf-text"), 16)
    assert source.words("x").weights.tolist() == [0, 1, 1, 0]
    source = LiveText(_Encoder(np.array([5, 6, 1])), TextFeatureConfig(encoder="hf-text"), 16)
    assert source.words("x").weights.tolist() == [1, 1, 0]


def glove(place: Path, **changes: object) -> VectorText:
    table = write_word_table(place)
    return VectorText(table, TextFeatureConfig(encoder="glove", **changes), max_words=4)  # type: ignore[arg-type]


def test_words_without_a_vector_are_dropped_before_the_first_words_are_kept(tmp_path: Path) -> None:
    words = glove(tmp_path, unknown_words="drop").words("Zork somebody zork OPENS zork a thing quickly lifts")
    assert words.tokens == ("somebody", "opens", "a", "thing")


def test_words_without_a_vector_share_the_vector_of_unknown_words(tmp_path: Path) -> None:
    source = glove(tmp_path, unknown_words="vector")
    words = source.words("somebody zork opens quickly now")
    assert words.tokens == ("somebody", "zork", "opens", "quickly")
    np.testing.assert_array_equal(words.vectors[1], words.vectors[3])
    with torch.random.fork_rng():
        torch.manual_seed(2019)
        expected = torch.nn.functional.normalize(torch.randn(TEXT_DIM), dim=0)
    np.testing.assert_allclose(words.vectors[1], expected, rtol=1e-5)


@pytest.mark.parametrize("unknown_words", ["drop", "vector"])
@pytest.mark.parametrize("query", ["zork", "?!", "  "])
def test_query_without_a_known_word_still_is_a_word(tmp_path: Path, unknown_words: str, query: str) -> None:
    words = glove(tmp_path, unknown_words=unknown_words).words(query)
    assert len(words.tokens) == len(words.weights) >= 1
    np.testing.assert_allclose(np.linalg.norm(words.vectors, axis=1), 1, rtol=1e-5)


def test_stored_state_goes_before_the_seed(tmp_path: Path) -> None:
    first = glove(tmp_path, unknown_words="vector")
    state = {"unknown_vector": [1.0, *[0.0] * (TEXT_DIM - 1)]}
    other = VectorText(first.table, first.config, 4, state)
    assert other.words("zork").vectors[0].tolist() == state["unknown_vector"]
    assert other.state() == state
    assert VectorText(first.table, first.config, 4, first.state()).unknown_vector.tolist() == (
        first.unknown_vector.tolist()
    )


def test_vocabulary_of_word_vectors_is_their_own_counts_before_published_before_counted(tmp_path: Path) -> None:
    source = glove(tmp_path, vocabulary_size=2)
    queries = ["somebody opens", "somebody lifts", "opens somebody"]
    assert source.make_vocabulary(queries, None).tokens == ("somebody", "opens")
    (tmp_path / "GloVe_tokenized_count.txt").write_text("a 2 9\nthing 3 8\nx 4 1\n")
    assert source.make_vocabulary(queries, tmp_path).tokens == ("a", "thing")
    counted = WordVectors(source.table.words, source.table.vectors, {"thing": 5, "lifts": 4, "a": 1})
    assert VectorText(counted, source.config, 4).make_vocabulary(queries, tmp_path).tokens == ("thing", "lifts")


def test_vocabulary_of_clip_is_published_when_it_is_there() -> None:
    folder = shared_path("annotations/charades/annotations")
    vocabulary = LiveText(_Encoder(clip_ids("dog")), CLIP, 16).make_vocabulary(["dog"], folder)
    assert vocabulary.classes == 1114
    assert len(vocabulary.tokens) == 1111


def test_vocabulary_of_clip_is_counted_without_the_ends() -> None:
    ids = clip_ids("dog")
    vocabulary = LiveText(_Encoder(ids), CLIP, 16).make_vocabulary(["dog", "dog"], None)
    assert vocabulary.tokens == (int(ids[1]),)
    assert (vocabulary.label(CLIP_START_ID), vocabulary.label(CLIP_END_ID)) == (1112, 1113)


def test_stored_states_are_read_by_their_text_and_a_lost_one_is_named(tmp_path: Path) -> None:
    folder = write_texts(tmp_path, ["somebody opens a thing"])
    source = StoredText(folder, TextFeatureConfig(encoder="states"), 16)
    assert source.dim == TEXT_DIM
    assert source.words("somebody opens a thing").tokens == tuple(token_ids("somebody opens a thing").tolist())
    with pytest.raises(FeatureError, match=r"no features of the query 'another'; run extract again"):
        source.words("another")


def test_features_are_found_by_name_and_by_fingerprint_when_there_are_several(tmp_path: Path) -> None:
    arrays = {"v": (np.ones((3, 8), np.float32), np.ones((3, 8), np.float32))}
    write_streams(tmp_path, arrays)
    found = find_features(tmp_path, "first")
    write_streams(tmp_path, arrays, version=1)
    with pytest.raises(FeatureError, match=r"several features of first.*features\.video\.0\.fingerprint="):
        find_features(tmp_path, "first")
    assert find_features(tmp_path, "first", found.fingerprint[:12]).path == found.path
    stream = VideoFeatureConfig(encoder="first", fingerprint=found.fingerprint[:6])
    assert [folder.path for folder in open_streams([stream], tmp_path)] == [found.path]
    with pytest.raises(FeatureError, match=r"no features of third \(there are: first-.*extract"):
        find_features(tmp_path, "third")
    with pytest.raises(FeatureError, match="there is no folder"):
        find_features(tmp_path / "absent", "first")


def opened(folder: Path, text: TextFeatureConfig) -> OpenedText:
    config = Config(features=FeaturesConfig(text=text))
    return text_kind(text.encoder).from_folder(folder / "features", config)


def test_text_features_are_a_table_of_words_for_glove_and_states_otherwise(tmp_path: Path) -> None:
    make_corpus(tmp_path, videos=2, test_videos=1)
    table = write_word_table(tmp_path / "features")
    states = opened(tmp_path, TextFeatureConfig(encoder="states"))
    assert isinstance(states.source, StoredText)
    assert states.fingerprint == states.source.folder.fingerprint
    vectors = opened(tmp_path, GLOVE)
    assert isinstance(vectors.source, VectorText)
    changed = WordVectors(table.words, table.vectors * 2)
    changed.save(tmp_path / "features" / "glove.safetensors")
    assert opened(tmp_path, GLOVE).fingerprint != vectors.fingerprint


def test_queries_are_listed_once_in_their_order() -> None:
    from mesm.datasets.annotations.records import Annotation

    queries = [Annotation(n, "v", text, ((0, 1),), 2.0, None, "train") for n, text in enumerate("bab")]
    assert texts_of(queries) == ["b", "a"]
