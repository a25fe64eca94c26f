"""The annotation readers by name: `read_annotations("charades-sta", folder, "train")`.

To add a dataset, write a function (root, split) -> list of Annotation in a module of its own, enter it in
`READERS` and test its counts in tests/datasets/test_annotations.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesm.datasets.annotations import charades, qvhighlights
from mesm.datasets.annotations.jsonl import read_jsonl
from mesm.datasets.annotations.records import Annotation, Saliency
from mesm.datasets.annotations.video_json import ACTIVITYNET, CHARADES_CD, CHARADES_CG, TACOS
from mesm.datasets.errors import AnnotationError

__all__ = ["AVAILABLE_SPLITS", "READERS", "Annotation", "Reader", "Saliency", "find_reader", "read_annotations"]


@dataclass(frozen=True)
class Reader:
    """How to read one dataset, and which splits to use unless the user says otherwise."""

    read: Callable[[Path, str], list[Annotation]]
    splits: tuple[str, ...]
    """The splits that can be read; empty: any name."""
    train_split: str
    eval_splits: tuple[str, ...]
    """The splits of the paper's tables for this dataset."""
    protocol: str = "charades"
    """The family of evaluation protocols that its figures follow."""
    several_moments: bool = False
    """A query may have several moments."""


READERS: Mapping[str, Reader] = {
    "charades-sta": Reader(charades.read_charades_sta, charades.SPLITS, "train", ("test",)),
    "charades-cg": Reader(CHARADES_CG.read, tuple(CHARADES_CG.files), "train", ("novel_composition", "novel_word")),
    "charades-cd": Reader(CHARADES_CD.read, tuple(CHARADES_CD.files), "train", ("test_ood", "test_iid")),
    "tacos": Reader(TACOS.read, tuple(TACOS.files), "train", ("test",), protocol="tacos"),
    "qvhighlights": Reader(
        qvhighlights.read_qvhighlights,
        tuple(qvhighlights.FILES),
        "train",
        ("val", "test"),
        protocol="qvhighlights",
        several_moments=True,
    ),
    "activitynet": Reader(ACTIVITYNET.read, tuple(ACTIVITYNET.files), "train", ("val_2",)),
    "jsonl": Reader(read_jsonl, (), "train", ("val",)),
}
AVAILABLE_SPLITS: Mapping[str, tuple[str, ...]] = {name: reader.splits for name, reader in READERS.items()}


def find_reader(name: str) -> Reader:
    """Return the row of a reader; AnnotationError with the nearest name when there is none."""
    if name not in READERS:
        raise AnnotationError(_unknown("annotation reader", name, tuple(READERS)))
    return READERS[name]


def read_annotations(reader: str, root: Path, split: str) -> list[Annotation]:
    """Read one split of a dataset, in the order of its file.

    `root` is the folder that holds the dataset's original files, or one with a folder `annotations` that
    does. Raises AnnotationError: unknown reader or split, missing file, malformed records (all of them at
    once), or a split without any query.
    """
    splits = find_reader(reader).splits
    if splits and split not in splits:
        raise AnnotationError(_unknown(f"split of {reader}", split, splits))
    annotations = READERS[reader].read(Path(root), split)
    if not annotations:
        raise AnnotationError(f"expected queries of the split {split} in {root}, found none")
    return annotations


def _unknown(what: str, found: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(found, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown {what}: {found!r}{hint}; expected one of: {', '.join(known)}"
