from __future__ import annotations

import ssl
from pathlib import Path

import numpy as np
import pytest
import torch

from mesm.extractors.contracts import TextEncoder
from mesm.extractors.encoders.glove import UNKNOWN_ID, plain_words, unknown_vector
from mesm.extractors.encoders.registry import create_text_encoder
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.sources import WeightSources

LINES = {"a": [0.5, 1.0, -2.0], "door": [3.0, 0.25, 0.0], ".": [1.0, 1.0, 1.0], "naïve": [0.0, 2.0, 4.0]}


@pytest.fixture
def vectors(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MESM_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "tiny.txt")


def write(path: Path, header: str = "") -> Path:
    lines = [" ".join([word, *map(str, numbers)]) for word, numbers in LINES.items()]
    path.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_words_get_the_files_numbers(vectors):
    encoder = create_text_encoder("glove", weights=str(vectors))
    assert isinstance(encoder, TextEncoder)
    encoded = encoder.encode(["A door.", ""])
    np.testing.assert_array_equal(encoded[0].tokens, np.array([LINES["a"], LINES["door"], LINES["."]], np.float32))
    assert encoded[0].token_ids.tolist() == [2, 3, 4]
    assert encoded[0].pooled is None
    assert encoded[1].tokens.shape == (0, 3)
    assert encoder.dim == 3


def test_unknown_words_share_mesms_vector(vectors):
    torch.manual_seed(2019)
    expected = torch.randn(300)
    torch.manual_seed(7)
    assert torch.equal(unknown_vector(300), expected)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(7)))
    encoded = create_text_encoder("glove", weights=str(vectors)).encode(["a zebra giraffe"])[0]
    assert encoded.token_ids.tolist() == [2, UNKNOWN_ID, UNKNOWN_ID]
    np.testing.assert_array_equal(encoded.tokens[1], unknown_vector(3).numpy())
    np.testing.assert_array_equal(encoded.tokens[1], encoded.tokens[2])


def test_unknown_words_can_be_dropped(vectors):
    encoder = create_text_encoder("glove", weights=str(vectors), options={"unknown": "drop"})
    assert encoder.encode(["the zebra door"])[0].token_ids.tolist() == [3]
    assert encoder.encode(["zebra"])[0].tokens.shape == (0, 3)
    assert encoder.spec["unknown"] == "drop"


def test_another_rule_of_cutting_is_part_of_the_spec(vectors):
    encoder = create_text_encoder("glove", weights=str(vectors), options={"split": str.split, "rule": "spaces"})
    assert encoder.encode(["a door."])[0].token_ids.tolist() == [2, UNKNOWN_ID]
    assert encoder.spec["rule"] == "spaces"
    with pytest.raises(EncoderError, match="split and rule together"):
        create_text_encoder("glove", weights=str(vectors), options={"rule": "spaces"})
    with pytest.raises(EncoderError, match="expected shared or drop"):
        create_text_encoder("glove", weights=str(vectors), options={"unknown": "zero"})


def test_plain_words():
    assert plain_words("The man doesn't re-open it, twice.") == [
        "the",
        "man",
        "doesn't",
        "re-open",
        "it",
        ",",
        "twice",
        ".",
    ]


def test_a_first_line_of_counts_is_allowed(tmp_path, vectors):
    word2vec = write(tmp_path / "word2vec.txt", header="4 3\n")
    encoder = create_text_encoder("glove", weights=str(word2vec))
    assert encoder.encode(["door naïve"])[0].token_ids.tolist() == [3, 5]


def test_the_cache_follows_the_contents_not_the_name(vectors):
    before = create_text_encoder("glove", weights=str(vectors))
    LINES_2 = vectors.read_text(encoding="utf-8").replace("0.5", "9.5")
    vectors.write_text(LINES_2, encoding="utf-8")
    after = create_text_encoder("glove", weights=str(vectors))
    assert after.encode(["a"])[0].tokens[0, 0] == 9.5
    assert before.spec["weights"] != after.spec["weights"]
    assert len(list((vectors.parent / "cache" / "vectors").iterdir())) == 2


def test_the_second_time_the_text_is_not_parsed(vectors, monkeypatch):
    first = create_text_encoder("glove", weights=str(vectors)).encode(["door"])[0]
    monkeypatch.setattr("torchtext.vocab.Vectors", None)
    second = create_text_encoder("glove", weights=str(vectors)).encode(["door"])[0]
    np.testing.assert_array_equal(first.tokens, second.tokens)


def test_certificates_are_still_checked_afterwards(vectors):
    before = ssl._create_default_https_context
    create_text_encoder("glove", weights=str(vectors))
    assert ssl._create_default_https_context is before


@pytest.mark.parametrize("content", ["", "a 1 2 3\nb 1 2\n", "a x y z\n", "one\ntwo\n"])
def test_other_files_are_refused(content, vectors):
    vectors.write_text(content)
    with pytest.raises(WeightsError, match="not a text file of word vectors"):
        create_text_encoder("glove", weights=str(vectors))
    assert not list((vectors.parent / "cache" / "vectors").iterdir())


def test_nothing_is_downloaded_behind_the_users_back(vectors):
    with pytest.raises(WeightsError, match=r"glove\.6B\.300d\.txt from https://nlp.stanford.edu.*and put it at"):
        create_text_encoder("glove", sources=WeightSources(download=False))
    with pytest.raises(WeightsError, match="no untrained weights"):
        create_text_encoder("glove", weights="untrained:1")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\n" + text + b"\n\n",
        lambda text: b"\xef\xbb\xbf\r\n" + text.replace(b"\n", b"\r\n\r\n"),
    ],
)
def test_marks_line_ends_and_blank_lines_change_nothing(vectors, change):
    wanted = create_text_encoder("glove", weights=str(vectors))
    vectors.write_bytes(change(vectors.read_bytes()))
    found = create_text_encoder("glove", weights=str(vectors))
    assert found.ids == wanted.ids
    np.testing.assert_array_equal(found.vectors, wanted.vectors)


@pytest.mark.parametrize(
    ("encoding", "words"),
    [("utf-16", "is UTF-16; save it as UTF-8"), ("latin-1", "line 4 is not UTF-8 text, .* Latin-1")],
)
def test_other_encodings_are_named(vectors, encoding, words):
    vectors.write_bytes(vectors.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(WeightsError, match=words):
        create_text_encoder("glove", weights=str(vectors))


@pytest.mark.parametrize("number", ["nan", "inf", "1e300"])
def test_vectors_that_are_no_numbers_are_refused(vectors, number):
    vectors.write_text(vectors.read_text(encoding="utf-8").replace("0.25", number), encoding="utf-8")
    with pytest.raises(WeightsError, match="not finite"):
        create_text_encoder("glove", weights=str(vectors))
