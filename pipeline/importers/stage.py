"""Import released features, or word vectors, by what the source is."""

from __future__ import annotations

from pathlib import Path

from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.data.splits import read_all_splits
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import WORD_TABLE_FILE
from mesm.pipeline.importers.features import import_features
from mesm.pipeline.run.console import ProgressBar


def import_any(
    source: Path, features: Path, name: str, clip_len: float | None, layout: str, config: str, annotations: Path | None
) -> Path:
    """Import a source into `features` and return what was written."""
    if not source.exists():
        raise PipelineError(f"there is no {source}; give a released HDF5 file, a folder of npz or npy, or word vectors")
    if text_kind(name).is_table:
        features.mkdir(parents=True, exist_ok=True)
        WordVectors.from_npz(source).save(features / WORD_TABLE_FILE)
        return features / WORD_TABLE_FILE
    if layout not in ("auto", "hdf5", "npz", "npy"):
        raise PipelineError(f"--layout {layout}: expected auto, hdf5, npz or npy")
    durations = None
    if config and annotations is not None:
        queries = read_all_splits(load_config(config), annotations)
        durations = {query.video_id: query.duration_s for query in queries if query.duration_s is not None}
    with ProgressBar("videos", 1) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        folder = import_features(
            source,
            features,
            name=name,
            clip_len_s=clip_len,
            layout=layout,
            durations=durations,
            progress=show,  # type: ignore[arg-type]
        )
    return folder.path
