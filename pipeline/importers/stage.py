"""Import released features, or word vectors, by what the sources are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mesm.datasets.shards.fingerprints import NAME_DIGITS
from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.data.splits import read_all_splits
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import WORD_TABLE_FILE
from mesm.pipeline.importers.features import import_features
from mesm.pipeline.run.console import ProgressBar, say


def import_any(
    sources: Sequence[Path],
    features: Path,
    name: str,
    clip_len: float | None,
    layout: str,
    config: str,
    annotations: Path | None,
) -> Path:
    """Import sources into `features` as one set and return what was written."""
    missing = ", ".join(str(source) for source in sources if not source.exists())
    if missing:
        raise PipelineError(f"there is no {missing}; give released HDF5 files, folders of npz or npy, or word vectors")
    if text_kind(name).is_table:
        return _import_word_vectors(sources, features, name)
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
            sources,
            features,
            name=name,
            clip_len_s=clip_len,
            layout=layout,  # type: ignore[arg-type]
            durations=durations,
            progress=show,
        )
    _say_other_sets(folder.path, name)
    return folder.path


def _import_word_vectors(sources: Sequence[Path], features: Path, name: str) -> Path:
    if len(sources) > 1:
        named = ", ".join(map(str, sources))
        raise PipelineError(f"--name {name} takes one source, a table of word vectors; found {len(sources)}: {named}")
    features.mkdir(parents=True, exist_ok=True)
    WordVectors.from_npz(sources[0]).save(features / WORD_TABLE_FILE)
    return features / WORD_TABLE_FILE


def _say_other_sets(path: Path, name: str) -> None:
    """Say that a set does not replace earlier ones of its encoder: with one source more, it is another set."""
    others = sorted(other.name for other in path.parent.glob(f"{name}-{'[0-9a-f]' * NAME_DIGITS}") if other != path)
    if others:
        say(
            f"{path.name} is a set of its own beside {', '.join(others)}, which stay as they are; where both are, "
            "training and evaluation ask which is meant: delete the folder that is not needed, or name one by the "
            f"`fingerprint` of its stream, such as --set features.video.0.fingerprint={path.name.rpartition('-')[2]}"
        )
