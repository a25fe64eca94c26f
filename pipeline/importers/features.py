"""Import features that others released, so that training reads them like extracted ones.

Layouts: an HDF5 file with one dataset (rows, dim) per video id (`clip_image.hdf5`, `slowfast.hdf5`,
`vgg.hdf5`, `c3d.hdf5`, `i3d.hdf5`); a folder with one npz per video that holds `features`; a folder with one
npy per video, whose axes of length 1 are dropped. A TACoS id may end in `.avi`, which is cut off, as the
annotation readers do.

The fingerprint of what is imported says so: its specification holds `imported`, the source's name and sha256,
the encoder and the clip length. Memory holds one batch of videos, whatever the source's size. An import that
was interrupted continues where it stopped when it is started again.
"""

from __future__ import annotations

import hashlib
import statistics
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Literal, Protocol

import h5py
import numpy as np

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder, row_count_problem

Layout = Literal["auto", "hdf5", "npz", "npy"]
Shape = tuple[int, ...]
HDF5_SUFFIXES = (".h5", ".hdf5")
NPZ_ARRAY = "features"
ID_SUFFIX = ".avi"
DURATION_SLACK_S = 0.25
"""Annotated durations are not those of the decoded files: Charades' own table is off by up to 0.17 s."""
BATCH_BYTES = 64 * 1024**2
SHOWN_PROBLEMS = 20
_READ_BYTES = 1024**2
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError)


class FeatureSource(Protocol):
    """Released features: named arrays in some layout."""

    def names(self) -> list[str]:
        """Return the names of all arrays, sorted."""

    def shape(self, name: str) -> Shape:
        """Return an array's shape without reading its numbers; FeatureError when it has none to read."""

    def read(self, name: str) -> np.ndarray:
        """Return an array; raises FeatureError when it cannot be read."""

    def sha256(self) -> str:
        """Hash everything that the features are read from."""


def import_features(
    source: Path,
    root: Path,
    *,
    name: str,
    clip_len_s: float | None,
    layout: Layout = "auto",
    durations: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureFolder:
    """Copy released features into a feature folder `<root>/<name>-<12 hex>` and return it.

    `clip_len_s` is the time that one row stands for; None takes duration / rows of each video whose duration
    (seconds, by video id) is in `durations`. `progress` is told how many videos of how many are there.

    Raises FeatureError, before anything is written, when the source has no such layout or when rows and
    durations differ by more than one clip (listing the videos); and at the end, when single videos could not
    be read, which are listed then while all others are there.
    """
    with open_source(source, layout) as features:
        names = _names_by_id(features, source)
        shapes, unreadable = _readable_shapes(features, names)
        dim = _common_dim(shapes, source, unreadable)
        known = _by_id(durations or {})
        _check_row_counts(shapes, clip_len_s, known, source)
        spec = {
            "imported": True,
            "encoder": name,
            "source": source.name,
            "source_sha256": features.sha256(),
            "clip_len_s": "duration / rows" if clip_len_s is None else clip_len_s,
            "dim": dim,
        }
        folder = FeatureFolder.create_or_open(root, name, spec)
        unreadable |= _copy(features, folder, {key: names[key] for key in shapes}, clip_len_s, known, progress)
    if unreadable:
        lines = _some_lines(f"{key}: {reason}" for key, reason in sorted(unreadable.items()))
        raise FeatureError(
            f"{len(unreadable)} of {len(names)} videos of {source} could not be imported, all others are in "
            f"{folder.path}:\n{lines}"
        )
    return folder


def open_source(source: Path, layout: Layout = "auto") -> HDF5Source | ArrayFiles:
    """Open released features for reading; FeatureError when `source` does not have the layout."""
    found = detect_layout(source) if layout == "auto" else layout
    if found == "hdf5":
        return HDF5Source(source)
    return ArrayFiles(source, f".{found}")


def detect_layout(source: Path) -> Literal["hdf5", "npz", "npy"]:
    """Tell the layout from a file's suffix or a folder's content; FeatureError when it cannot be told."""
    if source.is_file() and source.suffix.lower() in HDF5_SUFFIXES:
        return "hdf5"
    if source.is_dir():
        kinds = {path.suffix for path in source.iterdir()} & {".npz", ".npy"}
        if kinds == {".npz"}:
            return "npz"
        if kinds == {".npy"}:
            return "npy"
        found = "both npz and npy files" if kinds else "neither npz nor npy files"
    else:
        found = "a file of another kind" if source.exists() else "nothing"
    raise FeatureError(
        f"{source}: found {found}; expected a file ending in .h5 or .hdf5, or a folder of npz or of npy "
        "files (name the layout with --layout if there are both)"
    )


class HDF5Source(AbstractContextManager["HDF5Source"]):
    """An HDF5 file with one dataset per video id at its top level."""

    def __init__(self, path: Path) -> None:
        """Open the file; FeatureError when it is missing or no HDF5 file."""
        self._path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise FeatureError(f"{path} cannot be opened as an HDF5 file: {error}") from error

    def names(self) -> list[str]:
        """Return the names of all top-level datasets and groups, sorted."""
        return sorted(self._file)

    def shape(self, name: str) -> Shape:
        """Return a dataset's shape; FeatureError when it is none of this file's own numbers."""
        return tuple(self._dataset(name).shape)

    def read(self, name: str) -> np.ndarray:
        """Return a dataset's numbers; FeatureError when they cannot be read."""
        try:
            return np.asarray(self._dataset(name)[()])
        except _UNREADABLE as error:
            raise FeatureError(f"it cannot be read: {error}") from error

    def sha256(self) -> str:
        """Hash the file."""
        return _file_sha256(self._path)

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def _dataset(self, name: str) -> h5py.Dataset:
        # A link or a virtual dataset would read other files of this machine into the features.
        if not isinstance(self._file.get(name, getlink=True), h5py.HardLink):
            raise FeatureError("it is a link to elsewhere; expected a dataset in this file")
        dataset = self._file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise FeatureError("it is a group; expected a dataset (rows, dim)")
        if dataset.is_virtual or dataset.external:
            raise FeatureError("its numbers lie in other files; expected them in this one")
        if dataset.dtype.kind != "f":
            raise FeatureError(f"it holds {dataset.dtype}; expected floating-point numbers")
        return dataset


class ArrayFiles(AbstractContextManager["ArrayFiles"]):
    """A folder with one npz (array `features`) or npy file per video."""

    def __init__(self, folder: Path, suffix: str) -> None:
        """List the folder; FeatureError when it has no such file."""
        self._suffix = suffix
        self._files = {path.stem: path for path in sorted(folder.glob(f"*{suffix}"))} if folder.is_dir() else {}
        if not self._files:
            raise FeatureError(f"{folder} holds no {suffix} files; expected one per video")

    def names(self) -> list[str]:
        """Return the file names without their suffix, sorted."""
        return sorted(self._files)

    def shape(self, name: str) -> Shape:
        """Return an array's shape from the file's header; FeatureError when there is no array of numbers."""
        try:
            if self._suffix == ".npy":
                with open(self._files[name], "rb") as stream:
                    return _npy_shape(stream)
            with zipfile.ZipFile(self._files[name]) as archive, archive.open(f"{NPZ_ARRAY}.npy") as member:
                return _npy_shape(member)
        except _UNREADABLE as error:
            raise FeatureError(f"{self._files[name].name} cannot be read: {error}") from error

    def read(self, name: str) -> np.ndarray:
        """Return an array; FeatureError when it cannot be read."""
        path = self._files[name]
        try:
            if self._suffix == ".npy":
                return np.load(path, allow_pickle=False)
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[NPZ_ARRAY]
        except _UNREADABLE as error:
            raise FeatureError(f"{path.name} cannot be read: {error}") from error

    def sha256(self) -> str:
        """Hash the files' names and contents."""
        digest = hashlib.sha256()
        for name in self.names():
            digest.update(f"{self._files[name].name}\0{_file_sha256(self._files[name])}\n".encode())
        return digest.hexdigest()

    def __exit__(self, *exception: object) -> None:
        """Nothing is kept open."""


def squeezed(shape: Shape) -> Shape:
    """Drop axes of length 1 until two are left, the rows and the dimension; a single vector is one row."""
    if len(shape) <= 2:
        return (1, *shape) if len(shape) == 1 else shape
    rest = tuple(length for length in shape if length != 1)
    return (1, *rest) if len(rest) == 1 else rest


def _npy_shape(stream: IO[bytes]) -> Shape:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"npy format {version} is not known")
    shape, _, dtype = readers[version](stream)
    if dtype.kind != "f":
        raise ValueError(f"it holds {dtype}; expected floating-point numbers")
    return tuple(shape)


def _names_by_id(features: FeatureSource, source: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in features.names():
        key = name.removesuffix(ID_SUFFIX)
        if key in names:
            raise FeatureError(f"{source} holds both {names[key]} and {name}; expected one array per video")
        names[key] = name
    if not names:
        raise FeatureError(f"{source} holds no arrays; expected one per video")
    return names


def _by_id(durations: Mapping[str, float]) -> dict[str, float]:
    return {video_id.removesuffix(ID_SUFFIX): duration for video_id, duration in durations.items()}


def _readable_shapes(
    features: FeatureSource, names: Mapping[str, str]
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    shapes: dict[str, tuple[int, int]] = {}
    unreadable: dict[str, str] = {}
    for key, name in names.items():
        try:
            shape = features.shape(name)
        except FeatureError as error:
            unreadable[key] = str(error)
            continue
        match squeezed(shape):
            case (rows, dim) if rows and dim:
                shapes[key] = (rows, dim)
            case _:
                unreadable[key] = f"its shape is {shape}; expected (rows, dim)"
    return shapes, unreadable


def _common_dim(shapes: Mapping[str, tuple[int, int]], source: Path, unreadable: Mapping[str, str]) -> int:
    if not shapes:
        lines = _some_lines(f"{key}: {reason}" for key, reason in unreadable.items())
        raise FeatureError(f"no array of {source} can be imported:\n{lines}")
    dims = statistics.multimode(dim for _, dim in shapes.values())
    odd = {key: shape for key, shape in shapes.items() if shape[1] != dims[0]}
    if odd:
        lines = _some_lines(f"{key}: {shape}" for key, shape in odd.items())
        raise FeatureError(f"{source}: most arrays are (rows, {dims[0]}), {len(odd)} are not:\n{lines}")
    return dims[0]


def _check_row_counts(
    shapes: Mapping[str, tuple[int, int]],
    clip_len_s: float | None,
    durations: Mapping[str, float],
    source: Path,
) -> None:
    problems = {
        key: problem
        for key, (rows, _) in shapes.items()
        if (problem := row_count_problem(rows, clip_len_s, durations.get(key), DURATION_SLACK_S))
    }
    if not problems:
        return
    typical = statistics.median(durations[key] / shapes[key][0] for key in shapes if key in durations)
    lines = _some_lines(f"{key}: {problem}" for key, problem in problems.items())
    raise FeatureError(
        f"{source}: rows times the clip length of {clip_len_s:g} s are off the duration by more than a "
        f"clip in {len(problems)} of {len(shapes)} videos; a row there lasts {typical:.4g} s (median). "
        f"Give that as the clip length, or none for duration / rows:\n{lines}"
    )


def _copy(
    features: FeatureSource,
    folder: FeatureFolder,
    names: Mapping[str, str],
    clip_len_s: float | None,
    durations: Mapping[str, float],
    progress: Callable[[int, int], None],
) -> dict[str, str]:
    """Copy what the folder does not hold yet; return why videos were left out, by id."""
    left_out: dict[str, str] = {}
    with folder.writer() as writer:
        for done, (key, name) in enumerate(names.items(), start=1):
            if key not in folder:
                try:
                    rows = _finite_rows(features.read(name))
                    duration = durations.get(key)
                    clip_len = duration / len(rows) if clip_len_s is None and duration else clip_len_s
                    writer.add(key, {"features": rows}, clip_len_s=clip_len, duration_s=duration)
                except FeatureError as error:
                    left_out[key] = str(error)
            if writer.pending_bytes >= BATCH_BYTES:
                writer.publish()
            progress(done, len(names))
    return left_out


def _finite_rows(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise FeatureError("it holds numbers that are not finite")
    rows = array.reshape(squeezed(array.shape))
    return rows.astype(np.float32) if rows.dtype == np.float64 else rows


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _some_lines(lines: Iterator[str]) -> str:
    every = [f"  {line}" for line in lines]
    more = [f"  ... and {len(every) - SHOWN_PROBLEMS} more"] if len(every) > SHOWN_PROBLEMS else []
    return "\n".join(every[:SHOWN_PROBLEMS] + more)
