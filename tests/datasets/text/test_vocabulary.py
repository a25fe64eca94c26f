from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shared import shared_path

from mesm.datasets.errors import AnnotationError, DatasetError
from mesm.datasets.text.vocabulary import (
    CLIP_END_ID,
    CLIP_START_ID,
    Vocabulary,
    count_tokens,
    read_clip_counts,
    read_word_counts,
)


@pytest.mark.parametrize(
    ("folder", "size", "classes"),
    [("charades", 1111, 1114), ("TACoS", 1111, 1114), ("qvhighlights", 5000, 5003)],
)
def test_published_clip_vocabularies_have_the_published_classes(folder: str, size: int, classes: int) -> None:
    path = shared_path(f"annotations/{folder}/annotations/CLIP_tokenized_count.txt")
    vocabulary = read_clip_counts(path, size)
    assert vocabulary.classes == classes
    assert len(vocabulary.tokens) == size
    assert vocabulary.label(int(path.read_text().split()[0])) == 0
    assert vocabulary.label(CLIP_START_ID) == size + 1
    assert vocabulary.label(CLIP_END_ID) == size + 2
    assert vocabulary.label(49000) == vocabulary.unknown == size


@pytest.mark.parametrize("folder", ["charades", "TACoS"])
def test_published_word_vocabularies_have_the_published_classes(folder: str) -> None:
    path = shared_path(f"annotations/{folder}/annotations/GloVe_tokenized_count.txt")
    vocabulary = read_word_counts(path, 1111)
    assert vocabulary.classes == 1112
    assert vocabulary.label("person") == vocabulary.tokens.index("person")


def test_labels_keep_the_shape_and_mark_unknown_tokens() -> None:
    vocabulary = Vocabulary((320, 518), 4, CLIP_START_ID, CLIP_END_ID)
    tokens = np.array([[CLIP_START_ID, 518, 7, CLIP_END_ID], [CLIP_START_ID, 320, CLIP_END_ID, 0]])
    labels, unknown = vocabulary.labels(tokens, mask=tokens != 0)
    assert labels.tolist() == [[5, 1, 4, 6], [5, 0, 6, 0]]
    assert unknown.tolist() == [[False, False, True, False], [False] * 4]
    assert labels.dtype == np.int64
    assert vocabulary.labels(tokens)[0][1, 3] == vocabulary.unknown


def test_labels_of_words() -> None:
    vocabulary = Vocabulary(("person", "a"), 2)
    labels, unknown = vocabulary.labels(["a", "door", "person"])
    assert (labels.tolist(), unknown.tolist()) == ([1, 2, 0], [False, True, False])
    empty, none = vocabulary.labels([])
    assert empty.shape == none.shape == (0,)


def test_counted_vocabularies_rank_by_frequency_then_by_first_appearance() -> None:
    texts = [["c", "a"], ["b", "a"], ["b", "d", "c"]]
    assert count_tokens(texts, 3).tokens == ("c", "a", "b")
    clip = count_tokens([[1, 9, 5, 2], [1, 5, 2]], 10, start=1, end=2)
    assert clip.tokens == (5, 9)
    assert clip.classes == 13
    assert clip.label(1) == 11


def test_vocabularies_survive_json() -> None:
    for vocabulary in (Vocabulary((320, 518), 4, 1, 2), Vocabulary(("a", "b"), 2)):
        assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@pytest.mark.parametrize("stored", [{}, {"tokens": "ab", "size": 2}, {"tokens": [1.5], "size": 2}, {"tokens": [1]}])
def test_damaged_vocabularies_are_refused(stored: dict[str, object]) -> None:
    with pytest.raises(DatasetError, match="expected a vocabulary's tokens and size"):
        Vocabulary.from_json(stored)


def test_impossible_vocabularies_are_refused() -> None:
    with pytest.raises(DatasetError, match="cannot hold 3 tokens"):
        Vocabulary((1, 2, 3), 2)
    with pytest.raises(DatasetError, match=r"repeated: \[1\]"):
        Vocabulary((1, 2, 1), 3)
    with pytest.raises(DatasetError, match="both a start and an end"):
        Vocabulary((1,), 3, start=7)


def test_malformed_count_files_list_every_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "CLIP_tokenized_count.txt"
    path.write_text("320 10\n518\nperson 4\n\n269 2\n")
    with pytest.raises(AnnotationError) as caught:
        read_clip_counts(path, 10)
    assert "line 2: expected id count" in str(caught.value)
    assert "line 3: expected id count" in str(caught.value)


def test_the_id_of_clips_exclamation_mark_is_a_token_unless_masked() -> None:
    vocabulary = Vocabulary((0, 320), 4)
    assert vocabulary.labels([0, 320])[0].tolist() == [0, 1]
