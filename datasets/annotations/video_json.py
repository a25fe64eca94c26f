"""Readers of datasets that keep one JSON object per split: video -> its sentences and their time stamps.

Charades-CG, Charades-CD, TACoS, ActivityNet Captions and its splits ActivityNet-CG and ActivityNet-CD share this layout
and differ in file names, in where the duration stands and in the unit of time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesm.datasets.annotations.records import (
    VIDEO_ID_RULE,
    Annotation,
    Problems,
    RecordFields,
    clean_moment,
    find_file,
    is_video_id,
    number_pair,
    read_json_object,
)


@dataclass(frozen=True)
class VideoJson:
    """One dataset in this layout."""

    files: Mapping[str, str]
    """Split -> file name."""
    duration_field: str | None = "duration"
    """Field with the duration in seconds; None: it is `num_frames / fps`, and times are in frames."""
    drop_reversed: bool = False
    """Skip a moment whose start lies after its end, instead of swapping the two."""
    key_suffix: str = ""
    """Cut from the end of the file's video names."""

    def read(self, root: Path, split: str) -> list[Annotation]:
        """Read one split. Moments are cleaned by `clean_moment`; a query without a moment left is skipped."""
        path = find_file(root, self.files[split])
        problems = Problems(path)
        annotations: list[Annotation] = []
        position = 0
        for key, record in read_json_object(path).items():
            place = f"video {key}"
            if not is_video_id(key):
                problems.add(place, "", VIDEO_ID_RULE, key)
            if not isinstance(record, dict):
                problems.add(place, "", "an object with sentences and timestamps", record)
                continue
            fields = RecordFields(record, place, problems)
            queries = self._read_video(fields, key.removesuffix(self.key_suffix), split, position)
            annotations += queries
            sentences = record.get("sentences")
            position += len(sentences) if isinstance(sentences, list) else 0
        problems.raise_any()
        return annotations

    def _read_video(self, fields: RecordFields, video_id: str, split: str, first_id: int) -> list[Annotation]:
        duration, units_per_second = self._clock(fields)
        sentences, stamps = fields.record.get("sentences"), fields.record.get("timestamps")
        if not isinstance(sentences, list) or not isinstance(stamps, list) or len(sentences) != len(stamps):
            expected = "lists `sentences` and `timestamps` of equal length"
            fields.reject("", expected, {"sentences": sentences, "timestamps": stamps})
            return []
        annotations = []
        for position, (sentence, stamp) in enumerate(zip(sentences, stamps, strict=True)):
            window = number_pair(stamp)
            if window is None:
                fields.reject(f"timestamps[{position}]", "[start, end]", stamp)
            elif not isinstance(sentence, str) or not sentence.strip():
                fields.reject(f"sentences[{position}]", "a non-empty string", sentence)
            else:
                start, end = (time / units_per_second for time in window)
                moment = clean_moment(start, end, duration, self.drop_reversed)
                moments = () if moment is None else (moment,)
                query_id, query = first_id + position, sentence.strip()
                annotations.append(Annotation(query_id, video_id, query, moments, duration, None, split))
        return [annotation for annotation in annotations if annotation.moments]

    def _clock(self, fields: RecordFields) -> tuple[float, float]:
        """Return the duration in seconds and the number of time-stamp units in a second."""
        if self.duration_field is not None:
            return fields.positive_number(self.duration_field), 1.0
        fps = fields.positive_number("fps")
        frames = fields.positive_number("num_frames")
        return (frames / fps if fps > 0 else math.nan), fps


CHARADES_CG = VideoJson(
    {
        "train": "train.json",
        "novel_composition": "novel_composition.json",
        "novel_word": "novel_word.json",
        "test_trivial": "test_trivial.json",
    }
)
CHARADES_CD = VideoJson(
    {
        "train": "charades_train.json",
        "val": "charades_val.json",
        "test_ood": "charades_test_ood.json",
        "test_iid": "charades_test_iid.json",
    },
    duration_field="video_duration",
)
TACOS = VideoJson(
    {"train": "train.json", "val": "val.json", "test": "test.json"},
    duration_field=None,
    drop_reversed=True,
    key_suffix=".avi",
)
ACTIVITYNET_CG = VideoJson(CHARADES_CG.files)
ACTIVITYNET_CD = VideoJson(
    {
        "train": "anet_train.json",
        "val": "anet_val.json",
        "test_ood": "anet_test_ood.json",
        "test_iid": "anet_test_iid.json",
    }
)
ACTIVITYNET = VideoJson({"train": "train.json", "val_1": "val_1.json", "val_2": "val_2.json"})
