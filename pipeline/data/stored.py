"""What the command line does with feature folders: list, show, export, verify, compact.

Plain functions that return what there is to print. Exports have the layouts of released features: one HDF5
file with a dataset (rows, dim) per video id; one npz per video with the array `features`; one npz per
sentence with `last_hidden_state` (words, dim), `pooler_output` (dim,) and `token_ids` (words,).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from mesm.datasets.shards.folder import COMPACT_BYTES, FeatureFolder, Problem, Record
from mesm.datasets.shards.headers import check_key
from mesm.datasets.shards.publishing import remove_stale_temporaries, replace_file
from mesm.pipeline.config.errors import PipelineError

ExportLayout = Literal["hdf5", "npz"]
NamedRecords = Iterator[tuple[str, dict[str, np.ndarray]]]
RELEASED_TEXT_NAMES = {"tokens": "last_hidden_state", "pooled": "pooler_output"}
SHOWN_NAMES = 10


@dataclass(frozen=True)
class FolderSummary:
    """One feature folder in a few numbers."""

    path: Path
    name: str
    fingerprint: str
    records: int
    rows: int
    seconds: float
    """Sum of the durations that are known."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each array of one record without its first axis, such as {"features": (512,)}."""
    shards: int
    bytes: int


@dataclass(frozen=True)
class FolderDetails:
    """A feature folder with its specification and the records that were asked for."""

    summary: FolderSummary
    spec: Mapping[str, Any]
    records: tuple[Record, ...]


@dataclass(frozen=True)
class FolderProblems:
    """What verifying one folder found."""

    path: Path
    records: int
    problems: tuple[Problem, ...]


def feature_folders(place: Path) -> list[FeatureFolder]:
    """Open `place` if it is a feature folder, else each one in it; PipelineError when there is none."""
    if not place.is_dir():
        raise PipelineError(f"{place} is not a folder; expected a folder of features, or one that holds such")
    folders = [FeatureFolder.open(place)] if FeatureFolder.is_one(place) else FeatureFolder.all_in(place)
    if not folders:
        raise PipelineError(f"{place} holds no features; run `mesm-pipeline extract` or `import-features` first")
    return folders


def list_features(place: Path) -> list[FolderSummary]:
    """Summarise the feature folder `place`, or each one in it, from headers alone."""
    return [_summarise(folder) for folder in feature_folders(place)]


def show_features(path: Path, keys: Sequence[str] = ()) -> FolderDetails:
    """Return a folder's specification and the records of `keys`; FeatureError for a key it does not hold."""
    folder = FeatureFolder.open(path)
    return FolderDetails(_summarise(folder), folder.spec, tuple(folder.record(key) for key in keys))


def verify_features(place: Path, *, remove_damaged: bool = False) -> list[FolderProblems]:
    """Read all features of a folder (or of the folders in it) again and compare with their hashes.

    With `remove_damaged` the damaged shards are set aside, so that the next extraction makes their records
    anew.
    """
    found = []
    _tidy(place)
    for folder in feature_folders(place):
        problems = tuple(folder.verify(remove_damaged=remove_damaged))
        readable = remove_damaged or not any(problem.key is None for problem in problems)
        found.append(FolderProblems(folder.path, len(folder) if readable else 0, problems))
    return found


def compact_features(place: Path, target_bytes: int = COMPACT_BYTES) -> dict[Path, int]:
    """Merge the small shards of a folder (or of the folders in it); return by how many files each shrank."""
    _tidy(place)
    return {folder.path: folder.compact(target_bytes) for folder in feature_folders(place)}


def _tidy(place: Path) -> None:
    """Remove what dead writers left in a folder of features and in those within it, where that can be written."""
    for path in {place, *(folder.path for folder in feature_folders(place))}:
        if os.access(path, os.W_OK):
            remove_stale_temporaries(path)


def export_features(
    path: Path,
    target: Path,
    layout: ExportLayout,
    *,
    keys: Iterable[str] | None = None,
    names: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> int:
    """Write features as others' training code expects them, and return how many records were written.

    `hdf5` makes the file `target` with one dataset (rows, dim) per video; `npz` makes one file per record in
    the folder `target`. `keys` picks records (default: all); `names` says instead which file or dataset name
    holds which key, such as `{"qid2528": text_key(query)}`. Each file appears whole or not at all. Raises
    PipelineError when a file is there already and `overwrite` is not set, and for text features in hdf5;
    FeatureError for a missing key.
    """
    folder = FeatureFolder.open(path)
    chosen = dict(names) if names is not None else {key: key for key in (folder if keys is None else keys)}
    for name, key in chosen.items():
        check_key(name)
        folder.record(key)
    if layout == "hdf5":
        _refuse_text(folder, chosen)
        _refuse_nested(chosen)
    _refuse_existing([target] if layout == "hdf5" else [target / f"{name}.npz" for name in chosen], overwrite)
    export = _export_hdf5 if layout == "hdf5" else _export_npz
    export(target, _records(folder, chosen, progress))
    return len(chosen)


def _summarise(folder: FeatureFolder) -> FolderSummary:
    records = [folder.record(key) for key in folder]
    shards = folder.shards()
    shapes = folder.array_shapes(records[0].key) if records else {}
    return FolderSummary(
        path=folder.path,
        name=folder.name,
        fingerprint=folder.fingerprint,
        records=len(records),
        rows=sum(record.rows for record in records),
        seconds=sum(record.duration_s or 0.0 for record in records),
        shapes={name: shape[1:] if len(shape) > 1 else shape for name, shape in shapes.items()},
        shards=len(shards),
        bytes=sum(shard.size for shard in shards),
    )


def _records(folder: FeatureFolder, chosen: Mapping[str, str], progress: Callable[[str], None]) -> NamedRecords:
    """Yield name and arrays of each chosen record, and tell the name when the next one is asked for."""
    for name, key in chosen.items():
        yield name, folder.read(key)
        progress(name)


def _export_hdf5(target: Path, records: NamedRecords) -> None:
    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            for name, arrays in records:
                file.create_dataset(name, data=arrays["features"])

    replace_file(target, write)


def _export_npz(target: Path, records: NamedRecords) -> None:
    if target.is_dir():
        remove_stale_temporaries(target)
    for name, arrays in records:
        replace_file(target / f"{name}.npz", partial(_write_npz, arrays=arrays))


def _write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    with open(path, "wb") as stream:
        np.savez(stream, **{RELEASED_TEXT_NAMES.get(name, name): array for name, array in arrays.items()})


def _refuse_text(folder: FeatureFolder, chosen: Mapping[str, str]) -> None:
    if any("features" not in folder.array_shapes(key) for key in chosen.values()):
        raise PipelineError(
            f"{folder.path} holds text features, whose released layout is npz; export with --layout npz"
        )


def _refuse_nested(names: Iterable[str]) -> None:
    """Refuse names that HDF5 cannot hold beside one another: one that is the folder of another."""
    folders = {name[:place] for name in names for place, letter in enumerate(name) if letter == "/"}
    both = sorted(folders.intersection(names))
    if both:
        raise PipelineError(f"{both[0]} is an id and a folder of ids, which HDF5 cannot hold; export with layout npz")


def _refuse_existing(targets: Sequence[Path], overwrite: bool) -> None:
    existing = [] if overwrite else [path for path in targets if os.path.lexists(path)]
    if existing:
        shown = ", ".join(path.name for path in existing[:SHOWN_NAMES])
        more = f" and {len(existing) - SHOWN_NAMES} more" if len(existing) > SHOWN_NAMES else ""
        raise PipelineError(
            f"{existing[0].parent} holds {shown}{more} already; choose another place, or say --overwrite"
        )
