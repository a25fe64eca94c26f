"""Queries as whole sentences, in the space of the frames: what networks read that compare both without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mesm.datasets.shards.fingerprints import fingerprint, spec_differences, text_key
from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.encoders.registry import ENCODERS, create_text_encoder
from mesm.extractors.weights.sources import UNTRAINED_PREFIX, WeightSources
from mesm.model.network_config import Asked
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.encoded_texts import extract_texts
from mesm.pipeline.data.folders import find_features
from mesm.pipeline.data.prompts import GENERIC, TEMPLATES, mean_direction, unit_vectors
from mesm.pipeline.run.console import say

OF_ONE_MODEL = ("weights", "model", "architecture", "settings")
"""What the specifications of two encoders of one model have in common."""


@dataclass(frozen=True)
class SentenceVectors:
    """The sentences of a split."""

    of_query: Mapping[str, np.ndarray]
    """(D,) float64 by query, L2-normalised."""
    generic: np.ndarray
    """(D,) float64, the mean of the normalised vectors of sentences that fit any picture."""
    columns: tuple[int, int]
    """Which columns [first, stop) of the joined frame features lie in the same space."""


def read_sentences(
    config: Config,
    streams: Sequence[FeatureFolder],
    features: Path,
    queries: Sequence[str],
    device: torch.device,
    sources: WeightSources,
) -> SentenceVectors:
    """Read the sentence vectors of queries below a folder of features; forms of them that it lacks are encoded into it.

    Raises PipelineError when the features have no vectors of sentences in the space of their frames, and WeightsError
    when something has to be encoded and the weights are not to be had.
    """
    text = config.features.text
    entry = ENCODERS.get(text.encoder)
    if entry is None or not entry.images:
        raise PipelineError(f"{text.encoder} has no vectors of sentences in the space of frames; {_expected(config)}")
    folder = find_features(features, text.encoder, text.fingerprint)
    columns = _columns(config, streams, folder, entry.images)
    distinct = list(dict.fromkeys(queries))
    prompts = config.model.sentences() is Asked.IN_FORMS
    templates = TEMPLATES if prompts else ("{}",)
    wanted = [template.format(query) for query in distinct for template in templates]
    _encode_lacking(config, folder, [*wanted, *(GENERIC if prompts else ())], device, sources)
    forms = unit_vectors([_pooled(folder, text, config) for text in wanted])
    if forms.shape[1] != columns[1] - columns[0]:
        raise PipelineError(
            f"sentences of {folder.path} have {forms.shape[1]} numbers, rows of frames {columns[1] - columns[0]}; "
            f"both are not of one model; {_expected(config)}"
        )
    vectors = [mean_direction(part) for part in forms.reshape(len(distinct), len(templates), -1)]
    generic = unit_vectors([_pooled(folder, text, config) for text in GENERIC]) if prompts else np.array(vectors)
    return SentenceVectors(dict(zip(distinct, vectors, strict=True)), generic.mean(0), columns)


def _columns(config: Config, streams: Sequence[FeatureFolder], folder: FeatureFolder, encoder: str) -> tuple[int, int]:
    """Return where, in the joined features, the stream of this encoder lies, which is of the sentences' model."""
    places = [place for place, stream in enumerate(streams) if stream.name == encoder]
    if len(places) != 1:
        found = ", ".join(stream.name for stream in streams)
        raise PipelineError(
            f"none of the frame features ({found}) is of the model of {folder.name}; {_expected(config)}"
        )
    stream = streams[places[0]]
    known = [{key: one.spec[key] for key in OF_ONE_MODEL if key in one.spec} for one in (stream, folder)]
    if any(one.spec.get("imported") for one in (stream, folder)):
        say(f"warning: whether {stream.path.name} and {folder.path.name} are of one model is not known: imported")
    elif known[0] != known[1]:
        raise PipelineError(
            f"{stream.path} and {folder.path} are of two models: {'; '.join(spec_differences(*known))}; "
            "extract both with the same model and weights"
        )
    if any(str(one.spec.get("weights", "")).startswith(UNTRAINED_PREFIX) for one in (stream, folder)):
        say(f"warning: the weights of {stream.name} are random: these figures are meaningless")
    first = sum(int(one.spec["dim"]) for one in streams[: places[0]])
    return first, first + int(stream.spec["dim"])


def _encode_lacking(
    config: Config, folder: FeatureFolder, texts: Sequence[str], device: torch.device, sources: WeightSources
) -> None:
    if all(text_key(text) in folder for text in texts):
        return
    text = config.features.text
    encoder = create_text_encoder(
        text.encoder, weights=text.weights, device=device, options=text.options, sources=sources
    )
    if fingerprint(encoder.spec) != folder.fingerprint:
        lines = "; ".join(spec_differences(folder.spec, encoder.spec))
        raise PipelineError(
            f"{folder.path} lacks forms of the queries, and its encoder is not the configured one ({lines}); "
            "configure the same one, or ask without forms: --set model.prompts=false"
        )
    done = extract_texts(texts, encoder, folder)
    say(f"sentences: {done} encoded into {folder.path}")


def _pooled(folder: FeatureFolder, text: str, config: Config) -> np.ndarray:
    arrays = folder.read(text_key(text))
    if "pooled" not in arrays:
        raise PipelineError(f"{folder.path} has token states and no vectors of sentences; {_expected(config)}")
    return np.asarray(arrays["pooled"])


def _expected(config: Config) -> str:
    pairs = " or ".join(f"{entry.images} beside {name}" for name, entry in ENCODERS.items() if entry.images)
    return f"the network {config.model.name} compares frames and sentences of one image-text model: {pairs}"
