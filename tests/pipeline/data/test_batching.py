"""Batches: what is drawn for a step, what frames and targets it holds, and what is said when features are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import make_corpus, queries_of, tiny_config, write_streams

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.targets import prepare_video
from mesm.model.network_config import Draw
from mesm.pipeline.data import frames, stored_rows
from mesm.pipeline.data.draws import draw_masked_words, draw_negatives, next_of_other_group
from mesm.pipeline.data.folders import open_streams
from mesm.pipeline.data.frames import FrameTable, check_durations
from mesm.pipeline.data.moments import MomentData
from mesm.pipeline.data.text_kinds import text_kind

DRAWS = Draw.OTHER_QUERY | Draw.MASKED_WORDS | Draw.ROW_PAIRS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def load(corpus: Path, *overrides: str, annotations: list[Annotation] | None = None) -> MomentData:
    config = tiny_config(corpus, *overrides)
    queries = annotations or queries_of(corpus, "train")
    folders = open_streams(config.features.video, corpus / "features")
    frames = FrameTable.load(folders, [a.video_id for a in queries], config.dataset)
    text = text_kind("states").from_folder(corpus / "features", config).source
    vocabulary = text.make_vocabulary([a.query for a in queries], None)
    return MomentData(queries, frames, text, vocabulary, config.dataset)


def test_negatives_are_never_of_the_same_group_and_reach_every_other_query() -> None:
    groups = np.array([0, 0, 0, 1, 2, 2])
    drawn = [draw_negatives(groups, np.random.default_rng(seed)) for seed in range(200)]
    seen: dict[int, set[int]] = {}
    for row in drawn:
        assert row is not None
        assert (groups[row] != groups).all()
        for query, negative in enumerate(row):
            seen.setdefault(query, set()).add(int(negative))
    assert seen == {q: {n for n in range(6) if groups[n] != groups[q]} for q in range(6)}


@pytest.mark.parametrize("groups", [[0], [0, 0, 0]])
def test_one_group_has_no_negatives(groups: list[int]) -> None:
    assert draw_negatives(np.array(groups), np.random.default_rng(0)) is None


def test_a_third_of_the_words_is_masked_and_at_least_one() -> None:
    lengths = np.array([1, 2, 3, 5, 6, 9])
    weights = (np.arange(9) < lengths[:, None]).astype(float)
    masked = draw_masked_words(weights, lengths, np.random.default_rng(0))
    assert masked.sum(1).tolist() == [0, 1, 1, 1, 2, 3]
    assert not (masked & (weights == 0)).any()


def test_words_without_weight_are_never_masked_even_when_too_few_are_left() -> None:
    weights = np.array([[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    masked = draw_masked_words(weights, np.array([9]), np.random.default_rng(0))
    assert masked.tolist() == [(weights[0] > 0).tolist()]


def test_words_are_masked_in_proportion_to_their_weight() -> None:
    weights = np.tile([0.0, 2.0, 1.0, 1.0], (4000, 1))
    masked = draw_masked_words(weights, np.full(4000, 4), np.random.default_rng(0))
    np.testing.assert_allclose(masked.mean(0), [0, 0.5, 0.25, 0.25], atol=0.03)


def test_frames_are_packed_once_a_video_and_words_are_padded_with_zeros(corpus: Path) -> None:
    data = load(corpus)
    indices, groups = data.queries_of([3, 1])
    batch = data.batch(indices, groups)
    videos = [data.annotations[i].video_id for i in indices]
    distinct = list(dict.fromkeys(videos))
    assert [distinct[v] for v in batch.video_of_query] == videos
    assert batch.group_of_query == tuple(groups)
    config = tiny_config(corpus)
    folders = open_streams(config.features.video, corpus / "features")
    expected = [prepare_video([f.read(v)["features"] for f in folders], 16) for v in distinct]
    np.testing.assert_array_equal(batch.video.numpy(), np.concatenate(expected))
    assert list(batch.frames.lengths) == [len(rows) for rows in expected]
    assert torch.equal(batch.words.mask, batch.words.vectors.abs().sum(-1) > 0)
    np.testing.assert_allclose(batch.words.vectors[batch.words.mask].norm(dim=-1), 1, rtol=1e-5)
    assert batch.targets is None
    assert batch.word_mask is None
    assert batch.negative_query is None


def test_queries_of_different_length_are_padded(corpus: Path) -> None:
    queries = queries_of(corpus, "train")
    data = load(corpus)
    assert len({len(a.query.split()) for a in queries}) == 3
    indices = list(range(len(queries)))
    batch = data.batch(indices, indices)
    source = text_kind("states").from_folder(corpus / "features", tiny_config(corpus)).source
    for row, i in enumerate(indices):
        words = source.words(data.annotations[i].query)
        np.testing.assert_array_equal(batch.words.vectors[row, : len(words.tokens)].numpy(), words.vectors)
        assert int(batch.words.mask[row].sum()) == len(words.tokens)


def test_targets_of_a_batch_are_those_of_its_queries(corpus: Path) -> None:
    data = load(corpus)
    indices, groups = data.queries_of([0, 5, 2])
    batch = data.batch(indices, groups, np.random.default_rng(0), DRAWS)
    targets = batch.targets
    assert targets is not None
    for row, i in enumerate(indices):
        annotation = data.annotations[i]
        assert annotation.duration_s is not None
        (start, end), duration = annotation.moments[0], annotation.duration_s
        np.testing.assert_allclose(targets.windows[row, 0], [start / duration, end / duration], rtol=1e-6)
        inside = torch.zeros(targets.clip_mask.shape[1], dtype=torch.bool)
        inside[int(start) : int(min(end, duration - 1)) + 1] = True
        assert torch.equal(targets.clip_mask[row], inside)
        assert torch.equal(targets.saliency[row], inside.float())
        assert targets.positive is not None
        assert targets.negative is not None
        assert inside[targets.positive[row]].all()
        assert not inside[targets.negative[row]].any()
        assert (targets.negative[row] < duration).all()


def test_cropped_videos_hold_the_same_moments(corpus: Path) -> None:
    data = load(corpus)
    indices, groups = data.queries_of(range(len(data.groups)))
    whole = data.batch(indices, groups, np.random.default_rng(0), DRAWS, crop=0.0)
    cut = data.batch(indices, groups, np.random.default_rng(0), DRAWS, crop=1.0)
    assert whole.targets is not None
    assert cut.targets is not None
    assert cut.video_of_query == whole.video_of_query
    parts, videos = cut.video.split(cut.frames.lengths), whole.video.split(whole.frames.lengths)
    firsts = []
    for part, video in zip(parts, videos, strict=True):
        (first,) = (i for i in range(len(video)) if torch.equal(part[:, :-2], video[i : i + len(part), :-2]))
        firsts.append(first)
        edges = torch.arange(len(part) + 1) / len(part)
        torch.testing.assert_close(part[:, -2:], torch.stack((edges[:-1], edges[1:]), dim=1))
    assert any(firsts)
    assert any(first + len(part) < len(video) for first, part, video in zip(firsts, parts, videos, strict=True))
    for row, number in enumerate(cut.video_of_query):
        first, length, rows = firsts[number], len(parts[number]), len(videos[number])
        window = whole.targets.windows[row, 0] * rows
        torch.testing.assert_close(cut.targets.windows[row, 0] * length + first, window, atol=1e-4, rtol=0)
        inside = cut.targets.clip_mask[row, :length]
        assert torch.equal(inside, whole.targets.clip_mask[row, first : first + length])
        assert inside.sum() == whole.targets.clip_mask[row].sum()
        assert not cut.targets.clip_mask[row, length:].any()


def test_a_share_of_the_videos_is_cropped(corpus: Path) -> None:
    data = load(corpus)
    indices, groups = data.queries_of(range(len(data.groups)))
    whole = np.array(data.batch(indices, groups).frames.lengths)
    generator = np.random.default_rng(0)
    cropped = [data.batch(indices, groups, generator, crop=0.3).frames.lengths != whole for _ in range(100)]
    assert 0.1 < np.mean(cropped) < 0.3
    assert np.std([step.sum() for step in np.array(cropped)]) > 0


def test_a_batch_is_a_function_of_its_generator(corpus: Path) -> None:
    data = load(corpus)
    indices, groups = data.queries_of(range(6))
    first, again, other = (data.batch(indices, groups, np.random.default_rng(seed), DRAWS) for seed in (1, 1, 2))
    assert first.negative_query is not None
    assert again.negative_query is not None
    assert other.negative_query is not None
    assert first.word_mask is not None
    assert again.word_mask is not None
    assert torch.equal(first.negative_query, again.negative_query)
    assert torch.equal(first.word_mask.masked, again.word_mask.masked)
    assert not torch.equal(first.negative_query, other.negative_query)


def test_masked_words_are_neither_start_nor_end_nor_padding(corpus: Path) -> None:
    data = load(corpus, "features.text.encoder=states")
    indices, groups = data.queries_of(range(6))
    for seed in range(20):
        mask = data.batch(indices, groups, np.random.default_rng(seed), DRAWS).word_mask
        assert mask is not None
        for row, i in enumerate(indices):
            words = len(data._queries[i].words.tokens)
            assert int(mask.masked[row].sum()) == max(words // 3, 1)
            assert not mask.masked[row, 0]
            assert not mask.masked[row, words - 1 :].any()


def test_rows_that_stay_on_the_disk_are_those_of_the_memory(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resident = load(corpus).frames
    monkeypatch.setattr(frames, "free_memory", lambda: 0)
    monkeypatch.setattr(stored_rows.tempfile, "tempdir", str(tmp_path))
    stored = load(corpus).frames
    assert isinstance(stored.rows, stored_rows.StoredRows)
    assert list(tmp_path.iterdir()) == []
    videos = [*reversed(stored.lengths)]
    crops = {videos[1]: (2, 5), videos[3]: (0, 1)}
    tables = [(t, t.blanked(), t.exchanged(3), t.exchanged(3).blanked()) for t in (stored, resident)]
    for ours, other in zip(*tables, strict=True):
        for some in (None, crops):
            found, expected = ours.take(videos, some), other.take(videos, some)
            assert torch.equal(found[0], expected[0])
            assert found[1].lengths == expected[1].lengths
    blank = stored.blanked().take(videos)[0]
    assert not blank[:, :-2].any()
    assert torch.equal(blank[:, -2:], resident.take(videos)[0][:, -2:])


def test_missing_videos_are_listed(corpus: Path) -> None:
    queries = queries_of(corpus, "train")
    lost = [Annotation(100 + n, f"lost{n}", "a", ((0, 1),), 5.0, None, "train") for n in range(12)]
    with pytest.raises(FeatureError, match=r"lacks 12 of 24 videos.*among them lost0, lost1, .*extract them"):
        load(corpus, annotations=[*queries, *lost])


def test_features_of_another_clip_length_are_refused(corpus: Path) -> None:
    config = tiny_config(corpus, "features.video.0.clip_len=2")
    with pytest.raises(FeatureError, match="rows of 1 s, the configuration expects 2 s"):
        open_streams(config.features.video, corpus / "features")


def test_durations_that_disagree_are_a_warning_for_some_videos_and_an_error_for_most(corpus: Path) -> None:
    folders = [folder for folder in FeatureFolder.all_in(corpus / "features") if folder.name == "first"]
    queries = queries_of(corpus, "train")
    wrong = [Annotation(a.query_id, a.video_id, a.query, a.moments, 99.0, None, "train") for a in queries]
    assert check_durations(folders, queries) is None
    warning = check_durations(folders, [*wrong[:2], *queries[2:]])
    assert warning is not None
    assert "1 of 12 videos" in warning
    with pytest.raises(FeatureError, match="do not agree in 12 of 12 videos"):
        check_durations(folders, wrong)


def test_every_stream_is_checked_for_its_durations(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    queries = queries_of(tmp_path, "train")
    folders = open_streams(tiny_config(tmp_path).features.video, tmp_path / "features")
    long = {q.video_id: (np.ones((8, 8), np.float32), np.ones((60, 8), np.float32)) for q in queries}
    write_streams(tmp_path / "features", long)
    for folder in folders:
        folder.refresh()
    # The first stream's few wrong rows must not hide the second stream's.
    with pytest.raises(FeatureError, match="second"):
        check_durations(folders, queries)


def test_queries_without_truth_can_be_answered_but_not_trained_on(corpus: Path) -> None:
    queries = [
        Annotation(a.query_id, a.video_id, a.query, (), a.duration_s, None, "test") for a in queries_of(corpus, "test")
    ]
    data = load(corpus, annotations=queries)
    indices, groups = data.queries_of([0, 1])
    assert data.batch(indices, groups).targets is None
    with pytest.raises(FeatureError, match="has no moment"):
        data.batch(indices, groups, np.random.default_rng(0), DRAWS)


def test_at_most_five_windows_are_trained_on(corpus: Path) -> None:
    first = queries_of(corpus, "train")[0]
    moments = tuple((float(s), s + 0.5) for s in range(7))
    other = queries_of(corpus, "train")[4]
    query = Annotation(0, first.video_id, first.query, moments, first.duration_s, None, "train")
    batch = load(corpus, annotations=[query, other]).batch([0, 1], [0, 1], np.random.default_rng(0), DRAWS)
    assert batch.targets is not None
    assert batch.targets.window_counts == (5, 1)
    assert batch.targets.windows.shape == (2, 5, 2)
    assert batch.targets.windows[1, 1:].tolist() == [[0, 1]] * 4


def test_duration_falls_back_to_the_rows(corpus: Path) -> None:
    first = queries_of(corpus, "train")[0]
    query = Annotation(0, first.video_id, first.query, first.moments, None, None, "train")
    data = load(corpus, annotations=[query])
    assert data.duration(0) == data.frames.lengths[first.video_id] * 1.0


def test_chunks_hold_at_most_the_configured_number_of_queries(corpus: Path) -> None:
    data = load(corpus, "dataset.max_queries_per_group=1")
    assert [len(group.indices) for group in data.groups] == [1] * len(data)


def test_next_query_of_another_group_is_a_roll_where_every_query_is_a_group() -> None:
    assert next_of_other_group(np.arange(4)).tolist() == [1, 2, 3, 0]
    assert next_of_other_group(np.array([0, 0, 1, 1, 0])).tolist() == [2, 2, 4, 4, 2]
    assert next_of_other_group(np.array([7, 7, 7])).tolist() == [1, 2, 0]
    assert next_of_other_group(np.array([7])).tolist() == [0]
