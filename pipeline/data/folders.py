"""Which feature folders a configuration means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder
from mesm.pipeline.config.schema import VideoFeatureConfig


def find_features(root: Path, encoder: str, fingerprint: str = "", place: str = "features.video.0") -> FeatureFolder:
    """Open the features of an encoder below `root`; FeatureError when there are none, or several to choose from.

    place: where the encoder stands in the configuration, for the advice.
    """
    if not root.is_dir():
        raise FeatureError(f"there is no folder {root}; give the folder of features that extract or import wrote")
    folders = [f for f in FeatureFolder.all_in(root) if f.name == encoder and f.fingerprint.startswith(fingerprint)]
    if len(folders) == 1:
        return folders[0]
    if not folders:
        present = ", ".join(folder.path.name for folder in FeatureFolder.all_in(root)) or "none"
        raise FeatureError(
            f"{root} has no features of {encoder} {fingerprint}".rstrip()
            + f" (there are: {present}); run `mesm-pipeline extract` or `mesm-pipeline import-features` first"
        )
    names = ", ".join(folder.path.name for folder in folders)
    raise FeatureError(
        f"{root} has several features of {encoder}: {names}; choose one by the `fingerprint` of its stream in the "
        f"configuration, such as --set {place}.fingerprint={folders[0].fingerprint[:12]}"
    )


def open_streams(streams: Sequence[VideoFeatureConfig], features: Path) -> list[FeatureFolder]:
    """Open the folder of each video stream; FeatureError when a clip length is not the configured one."""
    folders = []
    for number, stream in enumerate(streams):
        place = f"features.video.{number}"
        folder = find_features(features, stream.encoder, stream.fingerprint, place)
        found = folder.spec.get("clip_len_s")
        # Of imported features whose rows share each video's duration, it is a text.
        if isinstance(found, int | float) and abs(found - stream.clip_len) > 0.02 * stream.clip_len:
            raise FeatureError(
                f"{folder.path} holds rows of {found:g} s, the configuration expects {stream.clip_len:g} s; "
                f"use --set {place}.clip_len={found:g}, or extract with {stream.clip_len:g} s"
            )
        folders.append(folder)
    return folders
