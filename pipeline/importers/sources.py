"""Features as others release them: named arrays in an HDF5 file or a folder.

Layouts: an HDF5 file with one dataset (rows, dim) per video id (`clip_image.hdf5`, `slowfast.hdf5`,
`vgg.hdf5`, `c3d.hdf5`, `i3d.hdf5`, `tall_c3d_features.hdf5`), or with one group per video id that holds a single
dataset (`sub_activitynet_v1-3.c3d.hdf5`); a folder with one npz per video that holds `features`; a folder with one
npy per video, whose axes of length 1 are dropped.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from mesm.datasets.array_files import BROKEN_ARRAY, check_announced, npy_shape, npz_shape, read_npy, read_npz
from mesm.datasets.errors import FeatureError
from mesm.extractors.weights.sources import file_sha256

Layout = Literal["auto", "hdf5", "npz", "npy"]
Shape = tuple[int, ...]
HDF5_SUFFIXES = (".h5", ".hdf5")
NPZ_ARRAY = "features"


class FeatureSource(AbstractContextManager["FeatureSource"], ABC):
    """Released features: named arrays in some layout."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all arrays, sorted."""

    @abstractmethod
    def shape(self, name: str) -> Shape:
        """Return an array's shape without reading its numbers; FeatureError when it has none to read."""

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """Return an array; raises FeatureError when it cannot be read."""

    @abstractmethod
    def sha256(self) -> str:
        """Hash everything that the features are read from."""


def open_source(source: Path, layout: Layout = "auto") -> FeatureSource:
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


class HDF5Source(FeatureSource):
    """An HDF5 file with one dataset, or a group of one, per video id at its top level."""

    def __init__(self, path: Path) -> None:
        """Open the file; FeatureError when it is missing or no HDF5 file."""
        self._path = path
        if not path.is_file():
            raise FeatureError(f"{path} is no file; expected an HDF5 file")
        try:
            self._file = h5py.File(path, "r")
        except BROKEN_ARRAY as error:
            raise FeatureError(f"{path} cannot be opened as an HDF5 file: {error}") from error

    def names(self) -> list[str]:
        """Return the names of all top-level datasets and groups, sorted."""
        try:
            return sorted(self._file)
        except BROKEN_ARRAY as error:
            raise FeatureError(f"{self._path} cannot be read: {error}") from error

    def shape(self, name: str) -> Shape:
        """Return a dataset's shape; FeatureError when it is none of this file's own numbers."""
        try:
            return tuple(self._dataset(name).shape)
        except BROKEN_ARRAY as error:
            raise FeatureError(f"it cannot be read: {error or type(error).__name__}") from error

    def read(self, name: str) -> np.ndarray:
        """Return a dataset's numbers; FeatureError when they cannot be read."""
        try:
            return np.asarray(self._dataset(name)[()])
        except BROKEN_ARRAY as error:
            raise FeatureError(f"it cannot be read: {error or type(error).__name__}") from error

    def sha256(self) -> str:
        """Hash the file."""
        return _sha256(self._path)

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def _dataset(self, name: str) -> h5py.Dataset:
        dataset = _own(self._file, name)
        if isinstance(dataset, h5py.Group):
            members = list(dataset)
            if len(members) != 1:
                raise FeatureError(f"it is a group of {len(members)}; expected a dataset (rows, dim) or a group of one")
            dataset = _own(dataset, members[0])
        if not isinstance(dataset, h5py.Dataset):
            raise FeatureError("it is a group of groups; expected a dataset (rows, dim), or a group of one")
        if dataset.is_virtual or dataset.external:
            raise FeatureError("its numbers lie in other files; expected them in this one")
        if dataset.dtype.kind != "f":
            raise FeatureError(f"it holds {dataset.dtype}; expected floating-point numbers")
        # A compressed chunk is unpacked whole, however little of it the dataset shows.
        for shape in (dataset.shape, dataset.chunks or ()):
            check_announced(shape, dataset.dtype)
        return dataset


def _own(group: h5py.Group, name: str) -> h5py.Dataset | h5py.Group:
    """Return a member of a group; FeatureError for a link, which could read other files of this machine."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise FeatureError("it is a link to elsewhere; expected a dataset in this file")
    return group[name]


class ArrayFiles(FeatureSource):
    """A folder with one npz (array `features`) or npy file per video."""

    def __init__(self, folder: Path, suffix: str) -> None:
        """List the folder; FeatureError when it has no such file."""
        self._suffix = suffix
        self._files = {path.stem: path for path in sorted(folder.glob(f"*{suffix}")) if path.is_file()}
        if not self._files:
            raise FeatureError(f"{folder} holds no {suffix} files; expected one per video")

    def names(self) -> list[str]:
        """Return the file names without their suffix, sorted."""
        return sorted(self._files)

    def shape(self, name: str) -> Shape:
        """Return an array's shape from the file's header; FeatureError when there is no array of numbers."""
        path = self._files[name]
        try:
            shape, dtype = npy_shape(path) if self._suffix == ".npy" else npz_shape(path, NPZ_ARRAY)
            if dtype.kind != "f":
                raise ValueError(f"it holds {dtype}; expected floating-point numbers")
            check_announced(shape, dtype)
        except BROKEN_ARRAY as error:
            raise FeatureError(f"{path.name} cannot be read: {error or type(error).__name__}") from error
        return shape

    def read(self, name: str) -> np.ndarray:
        """Return an array; FeatureError when it cannot be read."""
        path = self._files[name]
        try:
            return read_npy(path) if self._suffix == ".npy" else read_npz(path, NPZ_ARRAY)
        except BROKEN_ARRAY as error:
            raise FeatureError(f"{path.name} cannot be read: {error or type(error).__name__}") from error

    def sha256(self) -> str:
        """Hash the files' names and contents."""
        digest = hashlib.sha256()
        for name in self.names():
            digest.update(f"{self._files[name].name}\0{_sha256(self._files[name])}\n".encode())
        return digest.hexdigest()

    def __exit__(self, *exception: object) -> None:
        """Nothing is kept open."""


def squeezed(shape: Shape) -> Shape:
    """Drop axes of length 1 until two are left, the rows and the dimension; a single vector is one row."""
    if len(shape) <= 2:
        return (1, *shape) if len(shape) == 1 else shape
    rest = tuple(length for length in shape if length != 1)
    return (1, *rest) if len(rest) == 1 else rest


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise FeatureError(f"{path} cannot be read: {error.strerror or error}") from error
