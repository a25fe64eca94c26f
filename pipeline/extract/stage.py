"""Stage one: a folder of videos, and the queries about them, into feature shards."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.narration import NARRATIONS, from_arrays
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.text.word_vectors import WordVectors
from mesm.datasets.text.words import split_words
from mesm.extractors.encoders import glove
from mesm.extractors.weights.sources import WeightsFile, WeightSources, WeightsRequest
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.encoded_texts import extract_texts
from mesm.pipeline.data.splits import read_all_splits
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import WORD_TABLE_FILE, texts_of
from mesm.pipeline.extract.encoders import build_text_encoder, build_video_encoders, feature_folder
from mesm.pipeline.extract.failures import FAILURES_FILE, Failure
from mesm.pipeline.extract.films import Films, LocalFilms, SpooledFilms
from mesm.pipeline.extract.remote import RemoteStorage
from mesm.pipeline.extract.run import ExtractionSummary, extract_videos
from mesm.pipeline.extract.videos import VideoItem, collect_videos, select_videos
from mesm.pipeline.run.console import ProgressBar, say
from mesm.pipeline.run.memory import keep_freed_memory
from mesm.pipeline.run.object_storage import is_address
from mesm.pipeline.run.shown_text import one_line
from mesm.pipeline.workspace import Workspace

SHOWN = 10


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did."""

    videos: ExtractionSummary
    texts: int
    """Queries that were encoded now."""
    missing: tuple[str, ...]
    """Videos that annotations name and the folder does not have."""

    @property
    def complete(self) -> bool:
        """Whether every video of the folder and of the annotations is there."""
        return not self.videos.failed and not self.missing


def extract(
    workspace: Workspace, videos: Path | str | None, sources: WeightSources, limit: int = 0, shard: str = ""
) -> ExtractReport:
    """Extract the features of every video of a folder, and of the annotations' queries, that are not there yet.

    `videos`: a folder, or an address of object storage, whose films are fetched one after the other. Without it, as
    features were imported perhaps, only the queries are encoded.

    limit: only that many videos, the first by name (0: all); shard: `i/n`, every n-th video from the i-th (0-based).
    """
    config, features, device = workspace.config, workspace.features, workspace.device
    queries = [] if workspace.annotation_place is None else read_all_splits(config, workspace.require_annotations())
    if videos is None:
        if not queries:
            raise PipelineError(
                "nothing to extract: give --videos with a folder or an address of videos, or --annotations, or both"
            )
        texts = extract_queries(config, queries, features, device, sources)
        return ExtractReport(ExtractionSummary(0, 0, [], 0, 0.0), texts, ())
    storage = RemoteStorage(str(videos)) if is_address(str(videos)) else None
    found = storage.list_videos() if storage else collect_videos(Path(videos))
    items = select_videos(found, limit=limit, shard=shard)
    keep_freed_memory()
    encoders = build_video_encoders(config, device, sources)
    folders = [feature_folder(features, encoder) for encoder in encoders]
    for folder in folders:
        say(f"features: {folder.path}, {len(folder)} videos there")
    with contextlib.ExitStack() as stack:
        films: Films = LocalFilms()
        if storage is not None:
            films = stack.enter_context(SpooledFilms(storage, round(config.extract.spool_gib * 2**30)))
        bar = stack.enter_context(ProgressBar("videos", len(items)))
        summary = extract_videos(
            items,
            encoders,
            folders,
            workers=config.extract.workers,
            batch_size=config.extract.batch_size,
            device=device,
            timeout_s=config.extract.timeout_s,
            flush_rows=config.extract.flush_rows,
            on_progress=lambda done, total: bar.update(done),
            films=films,
        )
    texts = extract_queries(config, queries, features, device, sources) if queries else 0
    missing = missing_videos(queries, items) if not (limit or shard) else ()
    return ExtractReport(summary, texts, missing)


def missing_videos(annotations: Sequence[Annotation], items: Sequence[VideoItem]) -> tuple[str, ...]:
    """Return the videos that annotations name and the folder lacks, sorted."""
    present = {item.video_id for item in items}
    return tuple(sorted({annotation.video_id for annotation in annotations} - present))


def extract_queries(
    config: Config, annotations: Sequence[Annotation], features: Path, device: torch.device, sources: WeightSources
) -> int:
    """Encode the queries that are not there yet; returns how many were encoded."""
    texts = texts_of(annotations)
    if text_kind(config.features.text.encoder).is_table:
        if config.model.reads_narration():
            texts += narrated_texts(features)
        return extract_word_vectors(config, texts, features, sources)
    encoder = build_text_encoder(config.features.text, device, sources)
    done = extract_texts(texts, encoder, feature_folder(features, encoder))
    say(f"queries: {done} encoded, {len(texts) - done} were there")
    return done


def narrated_texts(features: Path) -> list[str]:
    """Return the distinct passages of all narrations below a folder of features: their words want vectors, too."""
    folders = [folder for folder in FeatureFolder.all_in(features) if folder.name == NARRATIONS]
    said = (passage.text for folder in folders for video in folder for passage in from_arrays(folder.read(video)))
    return list(dict.fromkeys(said))


def extract_word_vectors(config: Config, texts: Sequence[str], features: Path, sources: WeightSources) -> int:
    """Keep the word vectors of the texts' words in one small file; returns how many words it holds."""
    target = features / WORD_TABLE_FILE
    wanted = dict.fromkeys(word for text in texts for word in split_words(text, config.features.text.words))
    if target.exists() and config.features.text.weights == "default":
        say(f"word vectors: {target} is there; delete it to make it anew")
        return 0
    weights = WeightsRequest(config.features.text.weights, sources).resolve(glove.DEFAULT_WEIGHTS)
    if not isinstance(weights, WeightsFile):
        raise PipelineError(
            "word vectors cannot be untrained; give a text file of them by --weights glove-6b-300d=PATH"
        )
    words, vectors = glove.load_vectors(weights)
    rows = {word: row for row, word in enumerate(words)}
    known = [word for word in wanted if word in rows]
    table = np.zeros((len(known) + 1, vectors.shape[1]), np.float32)
    table[1:] = vectors.numpy()[[rows[word] for word in known]]
    features.mkdir(parents=True, exist_ok=True)
    WordVectors(("", *known), table).save(target)
    say(f"word vectors: {len(known)} of {len(wanted)} words have one; kept in {target}")
    return len(known)


def describe_failures(failed: Sequence[Failure], missing: Sequence[str], features: Path) -> list[str]:
    """One line for each of the first failed videos, one for the rest, one for the videos that are not in the folder.

    features: where the list of all of them lies.
    """
    lines = [f"{failure.video_id}: {failure.reason}: {failure.message}" for failure in failed[:SHOWN]]
    rest = Counter(failure.reason for failure in failed[SHOWN:])
    if rest:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rest.most_common())
        lines.append(f"{rest.total()} more videos ({reasons}); {features / FAILURES_FILE} lists all of them")
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        lines.append(
            f"{len(missing)} videos of the annotations are not in the folder: {', '.join(missing[:SHOWN])}{more}"
        )
    return [one_line(line) for line in lines]
