"""What every stage works on: a configuration, the places of annotations and features, and a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config


@dataclass(frozen=True)
class Workspace:
    """The four things that go from stage to stage together."""

    config: Config
    annotations: Path | None
    """Folder or file of the annotations; None: where the configuration says, if it does."""
    features: Path
    """Folder of the features."""
    device: torch.device

    @property
    def annotation_place(self) -> Path | None:
        """The annotations: those that were given, else the configuration's; None when neither names any."""
        configured = self.config.dataset.annotations
        return self.annotations or (Path(configured) if configured else None)

    def require_annotations(self) -> Path:
        """Return the annotations' place; PipelineError when none is known, or when it does not exist."""
        place = self.annotation_place
        if place is None:
            raise PipelineError("no annotations were given: use --annotations with their folder or file")
        if not place.exists():
            raise PipelineError(f"there is no {place}; give the folder or file of the annotations by --annotations")
        return place
