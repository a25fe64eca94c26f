"""The annotation readers by name: `read_annotations("charades-sta", folder, "train")`.

To add a dataset, write a function (root, split) -> list of Annotation in a module of this folder and enter its row in
`READERS`; see docs/add-a-dataset.md.
"""

from __future__ import annotations

import difflib
import importlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mesm.datasets.errors import AnnotationError

if TYPE_CHECKING:
    from mesm.datasets.annotations.records import Annotation


@dataclass(frozen=True)
class Reader:
    """How to read one dataset, and what its figures follow unless the user says otherwise."""

    place: str
    """`module:function` of this folder; imported when a file is read."""
    splits: tuple[str, ...]
    """The splits that can be read; empty: any name."""
    train_split: str
    eval_splits: tuple[str, ...]
    """The splits of the paper's tables for this dataset."""
    protocol: str = "charades"
    """The family of evaluation protocols that its figures follow."""
    several_moments: bool = False
    """A query may have several moments."""

    def read(self, root: Path, split: str) -> list[Annotation]:
        """Read a split below `root`, in the order of its file. Raises AnnotationError."""
        module, _, name = self.place.partition(":")
        function: Callable[[Path, str], list[Annotation]] = operator.attrgetter(name)(
            importlib.import_module(f"mesm.datasets.annotations.{module}")
        )
        return function(root, split)


_CG_SPLITS = ("train", "novel_composition", "novel_word", "test_trivial")
_CD_SPLITS = ("train", "val", "test_ood", "test_iid")
READERS: Mapping[str, Reader] = {
    "charades-sta": Reader("charades:read_charades_sta", ("train", "test"), "train", ("test",)),
    "charades-cg": Reader("video_json:CHARADES_CG.read", _CG_SPLITS, "train", ("novel_composition", "novel_word")),
    "charades-cd": Reader("video_json:CHARADES_CD.read", _CD_SPLITS, "train", ("test_ood", "test_iid")),
    "tacos": Reader("video_json:TACOS.read", ("train", "val", "test"), "train", ("test",), protocol="tacos"),
    "qvhighlights": Reader(
        "qvhighlights:read_qvhighlights",
        ("train", "val", "test"),
        "train",
        ("val", "test"),
        protocol="qvhighlights",
        several_moments=True,
    ),
    "activitynet": Reader(
        "video_json:ACTIVITYNET.read", ("train", "val_1", "val_2"), "train", ("val_2",), "activitynet"
    ),
    "activitynet-cg": Reader(
        "video_json:ACTIVITYNET_CG.read", _CG_SPLITS, "train", ("novel_composition", "novel_word"), "activitynet"
    ),
    "activitynet-cd": Reader(
        "video_json:ACTIVITYNET_CD.read", _CD_SPLITS, "train", ("test_ood", "test_iid"), "activitynet"
    ),
    "jsonl": Reader("jsonl:read_jsonl", (), "train", ("val",)),
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
    row = find_reader(reader)
    if row.splits and split not in row.splits:
        raise AnnotationError(_unknown(f"split of {reader}", split, row.splits))
    annotations = row.read(Path(root), split)
    if not annotations:
        raise AnnotationError(f"expected queries of the split {split} in {root}, found none")
    return annotations


def _unknown(what: str, found: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(found, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown {what}: {found!r}{hint}; expected one of: {', '.join(known)}"
