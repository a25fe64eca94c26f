"""The narratives of a split: passages from a folder of narrations, as rows of numbers beside the frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.narration import NARRATIONS, from_arrays, passages_to_rows
from mesm.datasets.shards.folder import FeatureFolder
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.folders import find_features
from mesm.pipeline.data.frames import FrameTable
from mesm.pipeline.data.texts import TextSource, VectorText
from mesm.pipeline.run.console import say

SHOWN = 5


class Narrations:
    """What is said of the videos of a split, each passage as the mean of its words' vectors."""

    def __init__(
        self,
        said: Mapping[str, tuple[np.ndarray, list[np.ndarray | None]]],
        durations_s: Mapping[str, float],
        dim: int,
        fingerprint: str = "",
    ) -> None:
        """Hold times and vectors of the passages of each video, and how long the videos are (seconds)."""
        self.said, self.durations_s, self.dim, self.fingerprint = said, durations_s, dim, fingerprint

    @classmethod
    def load(cls, config: Config, features: Path, text: TextSource, annotations: Sequence[Annotation]) -> Narrations:
        """Read those of the videos of some queries; PipelineError when videos have none that may not.

        FeatureError when there is no folder of narrations, or several to choose from.
        """
        folder = find_narrations(config, features)
        if not isinstance(text, VectorText):
            raise PipelineError(
                f"the network {config.model.name} reads narratives by word vectors, and {config.features.text.encoder} "
                "has none of words by themselves; use --set features.text.encoder=glove"
            )
        videos = list(dict.fromkeys(annotation.video_id for annotation in annotations))
        vectors: dict[str, np.ndarray | None] = {}
        said = {}
        for video in videos:
            passages = from_arrays(folder.read(video)) if video in folder else []
            for passage in passages:
                if passage.text not in vectors:
                    vectors[passage.text] = text.mean_vector(passage.text)
            times = np.array([passage.time_s for passage in passages], np.float64)
            said[video] = times, [vectors[passage.text] for passage in passages]
        _refuse_missing([video for video in videos if video not in folder], len(videos), folder.path, config)
        known, words = text.count_known(vectors)
        distinct = f"{len(vectors)} distinct passages in {folder.path}"
        say(f"narratives: {distinct}; {known} of their {words} words have a vector")
        durations = {a.video_id: a.duration_s for a in annotations if a.duration_s is not None}
        return cls(said, durations, text.dim, folder.fingerprint)

    def table(self, frames: FrameTable, row_s: float, of: Mapping[str, str] | None = None) -> FrameTable:
        """Return the narrative beside the rows of some frames, (rows, D) a video; zeros where nothing is said.

        row_s: seconds of a row, for videos whose duration nobody knows; of: whose narrative is told of a video, where
        that is not the one whose frames are shown.
        """
        rows = {}
        for video, length in frames.lengths.items():
            source = frames.sources[video] if of is None else of[video]
            told = None
            if source is not None:
                times, vectors = self.said[source]
                duration = self.durations_s.get(source, length * row_s)
                told = passages_to_rows(times, vectors, length, duration)
            rows[video] = np.zeros((length, self.dim), np.float32) if told is None else told
        return FrameTable(rows, frames.rows.device, endpoints=False)

    def exchanged(self, seed: int = 0) -> dict[str, str]:
        """Say for each video of which other one the narrative is told."""
        order = np.random.default_rng(seed).permutation(sorted(self.said)).tolist()
        return dict(zip(order, [*order[1:], order[0]], strict=True))


def find_narrations(config: Config, features: Path) -> FeatureFolder:
    """Open the folder of narrations that a configuration means; PipelineError that says how to get one."""
    if not any(folder.name == NARRATIONS for folder in FeatureFolder.all_in(features)):
        raise PipelineError(
            f"{features} has no narrations, and the network {config.model.name} reads them; let a narrator make them: "
            "mesm-pipeline narrate --config CONFIG --videos VIDEOS, or import them: mesm-pipeline narrate --import FILE"
        )
    return find_features(features, NARRATIONS, config.features.narration.fingerprint, "features.narration")


def read_narrations_for(
    config: Config, features: Path, text: TextSource, annotations: Sequence[Annotation]
) -> Narrations | None:
    """Read the narratives of a split where the network reads them, otherwise None."""
    if not config.model.reads_narration():
        return None
    return Narrations.load(config, features, text, annotations)


def _refuse_missing(missing: Sequence[str], videos: int, folder: Path, config: Config) -> None:
    if not missing:
        return
    named = f"{len(missing)} of {videos} videos have no narration in {folder}, among them {', '.join(missing[:SHOWN])}"
    if not config.features.narration.allow_missing:
        raise PipelineError(
            f"{named}; narrate them: mesm-pipeline narrate --config CONFIG --videos VIDEOS, or leave it with zeros for "
            "them: --set features.narration.allow_missing=true"
        )
    say(f"warning: {named}; they have zeros")
