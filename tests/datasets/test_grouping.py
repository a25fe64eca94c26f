from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.errors import AnnotationError
from mesm.datasets.grouping import Group, epoch_batches, group_queries, split_by_video, youtube_clip


def query(number: int, video: str, start: float = 0.0) -> Annotation:
    return Annotation(number, video, "q", ((start, start + 1),), 100.0, None, "train")


def test_groups_keep_first_appearance_and_sort_queries_stably() -> None:
    annotations = [query(0, "b", 5), query(1, "a", 1), query(2, "b", 2), query(3, "b", 5), query(4, "b", 0)]
    assert group_queries(annotations) == [Group("b", (4, 2, 0, 3)), Group("a", (1,))]
    assert group_queries(annotations, order=[0, 0, 0, 0, 0])[0].indices == (0, 2, 3, 4)


def test_youtube_groups_sort_by_the_start_of_the_clip() -> None:
    annotations = [
        query(0, "_x_y_360.0_510.0", 1),
        query(1, "_x_y_60.0_210.0", 9),
        query(2, "_x_y_360.0_510.0", 0),
    ]
    assert group_queries(annotations, "youtube-id") == [Group("_x_y", (1, 0, 2))]
    assert youtube_clip("_x_y_60.0_210.0") == ("_x_y", 60.0, 210.0)
    with pytest.raises(AnnotationError, match="expected a video id such as"):
        group_queries([query(0, "kitchen")], "youtube-id")


def test_order_needs_one_value_per_query() -> None:
    with pytest.raises(ValueError, match="2 sorting values"):
        group_queries([query(0, "a"), query(1, "a")], order=[1])


def test_chunks_are_shuffled_by_the_seed_and_sorted_inside() -> None:
    annotations = [query(number, "a", start=number) for number in range(25)]
    groups = group_queries(annotations, max_queries=10, seed=1)
    assert [len(group.indices) for group in groups] == [10, 10, 5]
    assert sorted(index for group in groups for index in group.indices) == list(range(25))
    assert all(list(group.indices) == sorted(group.indices) for group in groups)
    assert groups == group_queries(annotations, max_queries=10, seed=1)
    assert groups != group_queries(annotations, max_queries=10, seed=2)


@settings(deadline=None, max_examples=60)
@given(
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    batch_groups=st.integers(1, 5),
    seed=st.integers(0, 3),
    different=st.booleans(),
)
def test_an_epoch_uses_every_group_once(chunks: list[int], batch_groups: int, seed: int, different: bool) -> None:
    groups = [Group(str(video), (0,)) for video, count in enumerate(chunks) for _ in range(count)]
    batches = epoch_batches(groups, batch_groups, seed=seed, epoch=4, one_chunk_per_video=different)
    assert sorted(number for batch in batches for number in batch) == list(range(len(groups)))
    assert all(1 <= len(batch) <= batch_groups + 1 for batch in batches)
    if different:
        for batch in batches:
            assert len({groups[number].name for number in batch}) == len(batch)
        assert len(batches) <= max(-(-len(groups) // batch_groups), max(chunks))
    elif len(groups) > 1 and batch_groups > 1:
        assert min(map(len, batches)) > 1


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    groups = [Group(str(number % 10), (number,)) for number in range(60)]
    for different in (False, True):
        first = epoch_batches(groups, 4, seed=7, epoch=2, one_chunk_per_video=different)
        assert first == epoch_batches(groups, 4, seed=7, epoch=2, one_chunk_per_video=different)
        assert first != epoch_batches(groups, 4, seed=7, epoch=3, one_chunk_per_video=different)
        assert first != epoch_batches(groups, 4, seed=8, epoch=2, one_chunk_per_video=different)


def test_a_batch_holds_at_least_one_group() -> None:
    with pytest.raises(ValueError, match="at least 1 group"):
        epoch_batches([Group("a", (0,))], 0, seed=0, epoch=0)


def test_held_back_videos_do_not_depend_on_the_order_of_the_file() -> None:
    annotations = [query(number, f"video{number // 3}") for number in range(300)]
    kept, held = split_by_video(annotations, 0.1, seed=5)
    _, held_reversed = split_by_video(annotations[::-1], 0.1, seed=5)
    assert held == held_reversed[::-1]
    assert len({annotation.video_id for annotation in held}) == 10
    assert sorted(kept + held, key=lambda annotation: annotation.query_id) == annotations
    assert not {annotation.video_id for annotation in kept} & {annotation.video_id for annotation in held}
    assert held != split_by_video(annotations, 0.1, seed=6)[1]


def test_clips_of_one_youtube_video_stay_together() -> None:
    annotations = [query(number, f"v{number % 5}_{number}.0_9.0") for number in range(40)]
    kept, held = split_by_video(annotations, 0.2, seed=0, by="youtube-id")
    assert len(held) == 8
    names = [{youtube_clip(annotation.video_id)[0] for annotation in part} for part in (kept, held)]
    assert not names[0] & names[1]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        split_by_video([query(0, "a"), query(1, "b")], fraction, seed=0)


def test_both_parts_of_a_split_hold_a_video() -> None:
    annotations = [query(0, "a"), query(1, "b")]
    for fraction in (0.01, 0.99):
        kept, held = split_by_video(annotations, fraction, seed=0)
        assert len(kept) == len(held) == 1
