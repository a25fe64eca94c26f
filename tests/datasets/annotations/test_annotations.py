from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path

import pytest
from shared import shared_path

from mesm.datasets.annotations.records import Annotation, clean_moment
from mesm.datasets.annotations.registry import AVAILABLE_SPLITS, READERS, read_annotations
from mesm.datasets.errors import AnnotationError
from mesm.datasets.grouping import Group, GroupBy, epoch_batches, group_queries

FOLDERS = {
    "charades-sta": "annotations/charades",
    "charades-cg": "annotations/Charades-CG",
    "charades-cd": "annotations/Charades-CD",
    "tacos": "annotations/TACoS",
    "qvhighlights": "annotations/qvhighlights",
    "activitynet": "annotations/activitynet_captions",
}

# reader, split, queries, videos, groups: as the published loaders count them; ActivityNet: its files' own.
PUBLISHED_COUNTS = [
    ("charades-sta", "train", 12405, 5336, 5336),
    ("charades-sta", "test", 3720, 1334, 1334),
    ("charades-cg", "train", 8281, 3555, 3555),
    ("charades-cg", "novel_composition", 3442, 2480, 2480),
    ("charades-cg", "novel_word", 695, 580, 580),
    ("charades-cg", "test_trivial", 3096, 1689, 1689),
    ("charades-cd", "train", 11071, 4564, 4564),
    ("charades-cd", "val", 859, 333, 333),
    ("charades-cd", "test_ood", 3372, 1440, 1440),
    ("charades-cd", "test_iid", 823, 333, 333),
    ("tacos", "train", 9790, 75, 1016),
    ("tacos", "test", 4001, 25, 410),
    ("qvhighlights", "train", 7218, 7100, 2214),
    ("qvhighlights", "val", 1550, 1519, 474),
    ("qvhighlights", "test", 1542, 1529, 476),
    ("activitynet", "train", 37421, 10009, 10009),
    ("activitynet", "val_1", 17505, 4917, 4917),
    ("activitynet", "val_2", 17031, 4885, 4885),
]


@cache
def published(reader: str, split: str) -> list[Annotation]:
    return read_annotations(reader, shared_path(FOLDERS[reader]), split)


def published_groups(reader: str, split: str) -> list[Group]:
    by: GroupBy = "youtube-id" if reader == "qvhighlights" else "video"
    return group_queries(published(reader, split), by, max_queries=10 if reader == "tacos" else 0)


@pytest.mark.parametrize(("reader", "split", "queries", "videos", "groups"), PUBLISHED_COUNTS)
def test_counts_equal_the_published_tables(reader: str, split: str, queries: int, videos: int, groups: int) -> None:
    annotations = published(reader, split)
    assert len(annotations) == queries
    assert len({annotation.video_id for annotation in annotations}) == videos
    assert len(published_groups(reader, split)) == groups
    assert len({annotation.query_id for annotation in annotations}) == queries
    for annotation in annotations:
        assert annotation.split == split
        assert annotation.query == annotation.query.strip() != ""
        assert annotation.duration_s is not None
        for start, end in annotation.moments:
            assert 0 <= start <= end <= annotation.duration_s


# Groups in a batch and steps in an epoch of the published training runs.
@pytest.mark.parametrize(
    ("reader", "batch_groups", "steps"),
    [("charades-sta", 12, 445), ("charades-cg", 12, 297), ("tacos", 3, 339), ("qvhighlights", 12, 185)],
)
def test_steps_of_an_epoch_equal_the_published_ones(reader: str, batch_groups: int, steps: int) -> None:
    groups = published_groups(reader, "train")
    batches = epoch_batches(groups, batch_groups, seed=2019, epoch=0, one_chunk_per_video=reader == "tacos")
    assert len(batches) == steps
    assert all(len(batch) == batch_groups for batch in batches[:-1])


def test_every_reader_names_splits_that_it_can_read() -> None:
    for name, reader in READERS.items():
        for split in (reader.train_split, *reader.eval_splits):
            assert not AVAILABLE_SPLITS[name] or split in AVAILABLE_SPLITS[name]


def test_charades_mini_reads_as_charades_sta() -> None:
    annotations = read_annotations("charades-sta", shared_path("charades-mini"), "train")
    assert len(annotations) == 2987
    assert len({annotation.video_id for annotation in annotations}) == 1066
    assert annotations[0].query == "person turn a light on."


def test_charades_test_moments_are_clipped_as_published() -> None:
    folder = shared_path("annotations/charades/annotations")
    annotations = read_annotations("charades-sta", folder, "test")
    overshoot = []
    for position, line in enumerate((folder / "charades_sta_test.txt").read_text().splitlines()):
        end, cleaned = float(line.split("##")[0].split()[2]), annotations[position].moments[0][1]
        overshoot.append(end - cleaned)
    assert sum(over > 0 for over in overshoot) == 562
    assert max(overshoot) <= 1.55


def test_qvhighlights_keeps_windows_and_saliency() -> None:
    first = published("qvhighlights", "val")[0]
    assert (first.query_id, first.video_id) == (2579, "NUsG9BgSes0_210.0_360.0")
    assert first.moments == ((82.0, 150.0),)
    assert first.saliency is not None
    assert first.saliency.clip_ids[:2] == (41, 42)
    assert first.saliency.scores[0] == (1.0, 1.0, 2.0)
    assert len(first.saliency.clip_ids) == len(first.saliency.scores)


def test_qvhighlights_train_is_read_within_two_seconds() -> None:
    root = shared_path("annotations/qvhighlights")
    begin = time.process_time()
    read_annotations("qvhighlights", root, "train")
    assert time.process_time() - begin < 2


def test_tacos_times_are_frames_and_names_lose_their_ending() -> None:
    root = shared_path("annotations/TACoS")
    first = read_annotations("tacos", root, "test")[0]
    record = json.loads((root / "annotations/test.json").read_text())["s30-d52.avi"]
    assert first.video_id == "s30-d52"
    assert first.duration_s == record["num_frames"] / record["fps"]
    assert first.moments == ((141 / record["fps"], 354 / record["fps"]),)


@pytest.mark.parametrize(
    ("start", "end", "duration", "expected"),
    [
        (1.0, 4.0, 10.0, (1.0, 4.0)),
        (1.0, 12.0, 10.0, (1.0, 10.0)),
        (10.0, 12.0, 10.0, (10.0, 10.0)),
        (10.5, 12.0, 10.0, None),
        (38.0, 13.0, 12.17, None),
        (20.9, 12.0, 30.38, (12.0, 20.9)),
        (-0.5, 2.0, 10.0, (0.0, 2.0)),
    ],
)
def test_moments_are_cleaned(start: float, end: float, duration: float, expected: tuple[float, float] | None) -> None:
    assert clean_moment(start, end, duration) == expected


def test_tacos_drops_reversed_moments() -> None:
    assert clean_moment(5.0, 3.0, 10.0, drop_reversed=True) is None


def charades(folder: Path, lines: str, table: str = "id,length\nAB,10.0\nCD,20\n") -> Path:
    (folder / "charades_sta_train.txt").write_text(lines)
    (folder / "Charades_v1_train.csv").write_text(table)
    return folder


def test_charades_reads_from_an_annotations_subfolder(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    charades(tmp_path / "annotations", "AB 1 2##a dog ## barks\nCD 3.5 30##it ends\n")
    annotations = read_annotations("charades-sta", tmp_path, "train")
    assert [annotation.query for annotation in annotations] == ["a dog ## barks", "it ends"]
    assert annotations[1].moments == ((3.5, 20.0),)


def test_skipped_queries_leave_a_gap_in_the_ids(tmp_path: Path) -> None:
    charades(tmp_path, "AB 11 12##gone\nAB 1 2##stays\n")
    assert [annotation.query_id for annotation in read_annotations("charades-sta", tmp_path, "train")] == [1]


def test_charades_reports_all_malformed_lines_at_once(tmp_path: Path) -> None:
    charades(tmp_path, "AB 1 2##ok\nAB 1 2 no marks\nXY 1 2##no duration\nAB one 2##no number\nAB 1 nan##x\n")
    with pytest.raises(AnnotationError) as caught:
        read_annotations("charades-sta", tmp_path, "train")
    message = str(caught.value)
    assert message.startswith("4 problems")
    for place in ("line 2", "line 3: VIDEO", "line 4", "line 5"):
        assert place in message


def test_charades_durations_need_their_columns(tmp_path: Path) -> None:
    charades(tmp_path, "AB 1 2##fine\n", "id,seconds\nAB,10\n")
    with pytest.raises(AnnotationError, match=r"Charades_v1_train\.csv: expected columns id and length"):
        read_annotations("charades-sta", tmp_path, "train")


def test_video_json_reports_all_malformed_records_at_once(tmp_path: Path) -> None:
    content = {
        "ok": {"sentences": ["a"], "timestamps": [[0, 1]], "duration": 2},
        "lengths": {"sentences": ["a", "b"], "timestamps": [[0, 1]], "duration": 2},
        "duration": {"sentences": ["a"], "timestamps": [[0, 1]]},
        "stamp": {"sentences": ["a", ""], "timestamps": [[0], [0, 1]], "duration": 2},
        "../outside": {"sentences": [], "timestamps": [], "duration": 2},
        "list": [],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(AnnotationError) as caught:
        read_annotations("activitynet", tmp_path, "train")
    message = str(caught.value)
    assert message.startswith("6 problems")
    for place in ("video lengths", "video duration: duration", "timestamps[0]", "sentences[1]", "../outside"):
        assert place in message


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a": ' + "[" * 100_000, "\ud800"])
def test_unreadable_json_is_an_annotation_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(AnnotationError, match=r"train\.json"):
        read_annotations("activitynet", tmp_path, "train")


def test_qvhighlights_reads_a_file_without_saliency(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    record = {"qid": "a", "query": "q", "vid": "v_0.0_150.0", "duration": 150, "relevant_windows": [[0, 2]]}
    path.write_text(json.dumps(record) + "\n\n")
    (annotation,) = read_annotations("qvhighlights", path, "val")
    assert annotation.saliency is None
    assert annotation.query_id == "a"


def test_qvhighlights_reports_all_malformed_fields_at_once(tmp_path: Path) -> None:
    good = {
        "qid": 1,
        "query": "q",
        "vid": "v_0.0_150.0",
        "duration": 150,
        "relevant_windows": [[0, 2]],
        "relevant_clip_ids": [0],
        "saliency_scores": [[1, 2, 3]],
    }
    lines = [
        good,
        {**good, "qid": True, "query": " "},
        {**good, "qid": 3, "relevant_windows": [[2, 0]], "duration": float("nan")},
        {**good, "qid": 4, "saliency_scores": [[1, 2, 3], [1, 2, 3]]},
        {**good, "qid": 5, "relevant_clip_ids": [-1]},
        {**good, "qid": 6, "saliency_scores": [["4"]]},
        good,
    ]
    (tmp_path / "highlight_val_release.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(AnnotationError) as caught:
        read_annotations("qvhighlights", tmp_path, "val")
    message = str(caught.value)
    assert message.startswith("8 problems")
    for place in ("line 2: qid", "line 2: query", "line 3: relevant_windows[0]", "line 3: duration"):
        assert place in message
    for place in (
        "line 4: saliency_scores",
        "line 5: relevant_clip_ids",
        "line 6: saliency_scores",
        "line 7: qid",
    ):
        assert place in message


def test_missing_file_names_the_file_and_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other.txt").touch()
    with pytest.raises(AnnotationError) as caught:
        read_annotations("tacos", tmp_path, "val")
    assert "val.json" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "other.txt" in str(caught.value)
    with pytest.raises(AnnotationError, match="no such folder"):
        read_annotations("tacos", tmp_path / "absent", "val")


def test_unknown_names_get_the_nearest_valid_one() -> None:
    with pytest.raises(AnnotationError, match="did you mean charades-sta"):
        read_annotations("charades_sta", Path("."), "train")
    with pytest.raises(AnnotationError, match=r"split of charades-cg: 'novel_words' \(did you mean novel_word\?"):
        read_annotations("charades-cg", Path("."), "novel_words")


def test_a_split_without_queries_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(AnnotationError, match="found none"):
        read_annotations("activitynet", tmp_path, "train")
