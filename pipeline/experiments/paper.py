"""The published figures, and what the published code made them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

EPOCHS = 200

RELEASED = {
    "clip": "clip_image.hdf5",
    "slowfast-8x8-r50": "slowfast.hdf5",
    "vgg16": "vgg.hdf5",
    "c3d": "c3d.hdf5",
    "i3d-inception": "i3d.hdf5",
    "c3d-activitynet": "sub_activitynet_v1-3.c3d.hdf5",
}
"""Released files of features, by encoder."""


@dataclass(frozen=True)
class PublishedSetting:
    """A setting of the papers' tables; it has the name of its configuration."""

    source: str
    """Paper and table."""
    select_on: str
    """The split that the published code chose its best epoch on; empty: the dataset has a validation split."""
    rows: Mapping[str, Mapping[str, float]]
    """By split: figures by name."""
    epochs: int = EPOCHS
    batch_mean: int = 0
    """Queries of a batch, if the published figures are means over batches; 0: they are means over queries."""


@cache
def published_settings() -> dict[str, PublishedSetting]:
    """Read the table of published figures, by setting."""
    text = (resources.files("mesm.pipeline.experiments") / "published.yaml").read_text(encoding="utf-8")
    return {name: PublishedSetting(**row) for name, row in yaml.safe_load(text).items()}
