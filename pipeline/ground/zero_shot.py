"""Answers without a checkpoint: how well each frame fits the sentence, by an image-text model, and spans of that curve.

    grounder = ZeroShot.from_model()
    video = grounder.encode_video("kitchen.mp4")
    for moment in grounder.ground(video, "a person opens the fridge").moments:
        print(moment.start_s, moment.end_s, moment.score)

Nothing is trained on moments. A video of any length is read as a whole, see `mesm.model.curves.video`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.datasets.shards.fingerprints import fingerprint, text_key
from mesm.extractors.contracts import SentenceEncoder, TextEncoder, VideoEncoder
from mesm.extractors.encoders.clip_pieces import model_names
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.extractors.weights.sources import UNTRAINED_PREFIX, WeightSources
from mesm.model.curves.decoders import DEFAULT, make_decoder, name_of
from mesm.model.curves.video import (
    Reading,
    default_reading,
    find_spans,
    in_seconds,
    mean_row,
    similarities,
    similarity,
    stands_out,
)
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import ExtractConfig
from mesm.pipeline.data.encoded_texts import extract_texts
from mesm.pipeline.data.prompts import GENERIC, TEMPLATES, mean_direction, unit_vectors
from mesm.pipeline.extract.encoders import feature_folder
from mesm.pipeline.ground.answers import EncodedVideo, GroundingResult, Match, Moment
from mesm.pipeline.ground.encoding import encode_video
from mesm.pipeline.ground.questions import Question, weighted

DEFAULT_MODEL = "ViT-B-32/openai"
ROW_S = 1.0
"""Seconds of a row: the frame at their centre."""
QUERIES_PER_BATCH = 64
SAYS_NOTHING = 1e-5
"""Length of what a question has beyond the generic sentences, up to which it has nothing."""
CHANCE_PERCENTILE = 95.0
"""Of what sentences that fit any picture reach in a video: an answer has to stand out more."""
OPENAI_NAMES = {DEFAULT_MODEL, "ViT-B-32-quickgelu/openai"}
"""Names of the model whose weights the table has."""


class ZeroShot:
    """An image-text model that answers by the similarity of frames and sentence."""

    def __init__(
        self,
        video: VideoEncoder,
        text: TextEncoder,
        device: str | torch.device = "cpu",
        reading: Reading | None = None,
        model: str = "",
    ) -> None:
        """Take two encoders of one model; PipelineError when the text's has no vectors of sentences.

        reading: the procedure that reads spans from the curve; model: the name to show.
        """
        if not isinstance(text, SentenceEncoder):
            raise PipelineError(
                f"encoder {text.name} has no vectors of sentences; answers without a checkpoint need them"
            )
        self.encoder, self.text, self.device = video, text, torch.device(device)
        self.reading, self.model = reading or default_reading(), model or video.name
        self._cache: Path | None = None
        self._asked: tuple[EncodedVideo, np.ndarray] | None = None

    @classmethod
    def from_model(
        cls,
        model: str = DEFAULT_MODEL,
        device: str | torch.device = "cpu",
        sources: WeightSources | None = None,
        reading: Reading | None = None,
    ) -> ZeroShot:
        """Build the encoders of a model: NAME/TAG of open_clip, or a folder or hub id of transformers.

        Raises the extractors' WeightsError when weights are not to be had, EncoderError when the model is none of these
        families.
        """
        video, text, weights, options = find_model(model)
        sources = sources or WeightSources()
        return cls(
            create_video_encoder(
                video,
                weights=weights,
                clip_len_s=ROW_S,
                device=device,
                options=options,
                sources=sources,
                deferred=True,
            ),
            create_text_encoder(text, weights=weights, device=device, options=options, sources=sources),
            device,
            reading,
            model=model,
        )

    score_kind = "contrast"

    @property
    def untrained(self) -> bool:
        """Whether the weights are random, so that the answers mean nothing."""
        return any(str(side.spec.get("weights", "")).startswith(UNTRAINED_PREFIX) for side in (self.encoder, self.text))

    @property
    def max_words(self) -> int:
        """Tokens of a query that the model reads, without those of its start and its end."""
        return self.text.max_tokens - self.text.special_tokens

    def encode_video(self, path: str | Path, cache: Path | None = None) -> EncodedVideo:
        """Decode a video once and encode a frame a second.

        cache: a folder of features in which to look first and to keep the result. Raises a VideoError that says why the
        file cannot be read.
        """
        self._cache = cache
        return encode_video(path, [self.encoder], self.device, ExtractConfig(), cache)

    def ground(self, video: EncodedVideo, query: str | Question, top_k: int = 5) -> GroundingResult:
        """Answer a query: the `top_k` best spans.

        A score ranks the spans of one video and is no probability. A query longer than the model reads is cut, which
        the result says; an empty one is a PipelineError.
        """
        question = query if isinstance(query, Question) else Question(query)
        if question.plain:
            return self._answer(video, question.name, *self.sentence(question.text), self.generic, top_k)
        direction, cut = self.direction(question, lambda: mean_row(video.streams[0]))
        return self._answer(video, question.name, direction, cut, None, top_k)

    def ground_many(self, video: EncodedVideo, queries: Sequence[str], top_k: int = 5) -> Iterator[GroundingResult]:
        """Answer queries, whose sentences are encoded some at a time."""
        for start in range(0, len(queries), QUERIES_PER_BATCH):
            some = [query.strip() for query in queries[start : start + QUERIES_PER_BATCH]]
            for query, (sentence, cut) in zip(some, self.sentences(some), strict=True):
                yield self._answer(video, query, sentence, cut, self.generic, top_k)

    def _answer(
        self, video: EncodedVideo, name: str, sentence: np.ndarray, cut: bool, generic: np.ndarray | None, top_k: int
    ) -> GroundingResult:
        """Answer by a sentence and what fits any picture, or, without that, by a direction."""
        rows = video.streams[0]
        curve = similarity(rows, sentence, np.zeros_like(sentence) if generic is None else generic)
        spans = find_spans(curve, video.row_s, self.reading, rows)
        length = int(spans[0, 1] - spans[0, 0])
        match = None if generic is None else self._match(video, sentence, curve, length)
        spans = in_seconds(spans, video.row_s, video.duration_s)
        moments = [Moment(*(round(float(x), 4) for x in span)) for span in spans[:top_k]]
        return GroundingResult(name, moments, curve.astype(np.float32), video.row_s, cut, match)

    def direction(self, question: Question, mean_row: Callable[[], np.ndarray]) -> tuple[np.ndarray, bool]:
        """Return the direction (D,) that rows should have, of length 1, and whether the question was cut.

        mean_row gives the mean (D,) of the rows that are searched, beyond which a picture is looked for. What is not
        wanted is taken off. A question that says no more than the generic sentences has the direction 0.
        """
        if question.picture is not None:
            vector, cut = self.picture(question.picture) - mean_row(), False
        else:
            sentence, cut = self.sentence(question.text)
            vector = sentence - self.generic
        for weight, text in map(weighted, question.without):
            vector = vector - weight * (self.sentence(text)[0] - self.generic)
        return unit_direction(vector), cut

    def generic_directions(self) -> list[np.ndarray]:
        """Return what each of the generic sentences has beyond all of them, as directions."""
        return [unit_direction(vector - self.generic) for vector in self.generic_vectors]

    def sentence(self, query: str) -> tuple[np.ndarray, bool]:
        """Return the normalised vector (D,) float64 of a query, and whether the query was cut to what the model reads.

        It is the mean of the vectors of the query in several forms. An empty query is a PipelineError.
        """
        return self.sentences([query])[0]

    def sentences(self, queries: Sequence[str]) -> list[tuple[np.ndarray, bool]]:
        """Return for each query what `sentence` does, all encoded together."""
        queries = [query.strip() for query in queries]
        if not all(queries):
            raise PipelineError("the query is empty; describe the moment in a sentence")
        vectors, cut = self._sentences([template.format(query) for query in queries for template in TEMPLATES])
        forms = len(TEMPLATES)
        return [(mean_direction(vectors[first : first + forms]), cut[first]) for first in range(0, len(vectors), forms)]

    @cached_property
    def generic(self) -> np.ndarray:
        """(D,) float64: the mean of the normalised vectors of sentences that fit any picture."""
        mean: np.ndarray = self.generic_vectors.mean(0)
        return mean

    @cached_property
    def generic_vectors(self) -> np.ndarray:
        """(n, D) float64: these normalised vectors themselves; kept beside the features, where these are kept."""
        if self._cache is None:
            return self._sentences(GENERIC)[0]
        folder = feature_folder(self._cache, self.text)
        extract_texts(GENERIC, self.text, folder)
        return unit_vectors([np.asarray(folder.read(text_key(sentence))["pooled"]) for sentence in GENERIC])

    def picture(self, path: Path) -> np.ndarray:
        """Return the normalised vector (D,) float64 of a picture file; PipelineError when it is none."""
        from mesm.pipeline.ground.pictures import encode_picture

        return encode_picture(path, self.encoder)

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that changes an answer, as JSON types: both encoders, sentences, procedure and constants."""
        return {
            "encoder": dict(self.encoder.spec),
            "text": dict(self.text.spec),
            "templates": list(TEMPLATES),
            "generic": list(GENERIC),
            "decoder": name_of(self.reading.decoder),
            "constants": self.reading.record(),
        }

    @property
    def method(self) -> dict[str, Any]:
        """What answers say of how they were made."""
        spec = self.spec
        return {"name": "zero-shot", "fingerprint": self.fingerprint, **{k: spec[k] for k in ("decoder", "constants")}}

    @property
    def fingerprint(self) -> str:
        """What the answers' making is known by: 64 hex digits of `spec`."""
        return fingerprint(self.spec)

    def _match(self, video: EncodedVideo, sentence: np.ndarray, curve: np.ndarray, rows: int) -> Match:
        """Compare the curve's best rows with the best as many of each sentence that fits any picture."""
        if self._asked is None or self._asked[0] is not video:
            curves = similarities(video.streams[0], self.generic_vectors, self.generic)
            self._asked = video, curves / self._beyond_generic(self.generic_vectors)[:, None]
        chance = np.percentile(stands_out(self._asked[1], rows), CHANCE_PERCENTILE)
        own = stands_out(curve[None] / self._beyond_generic(sentence[None]), rows)[0]
        return Match(round(float(own), 6), round(float(chance), 6))

    def _beyond_generic(self, sentences: np.ndarray) -> np.ndarray:
        return np.maximum(np.linalg.norm(sentences - self.generic, axis=1), 1e-12)

    def _sentences(self, texts: Sequence[str]) -> tuple[np.ndarray, list[bool]]:
        """Return normalised vectors (n, D) of sentences, and whether each was cut."""
        features = self.text.encode(texts)
        vectors = unit_vectors([np.asarray(sentence.pooled) for sentence in features])
        return vectors, [f.cut for f in features]


def unit_direction(vector: np.ndarray) -> np.ndarray:
    """Return a vector (D,) of length 1; 0 where it says nothing, so that rounding decides nothing."""
    length = float(np.linalg.norm(vector))
    return vector / length if length > SAYS_NOTHING else np.zeros_like(vector)


def reading_by(decoder: str) -> Reading:
    """Return the reading of curves by a procedure of this name, empty: the default; PipelineError for unknown names."""
    try:
        return Reading(make_decoder(decoder or DEFAULT))
    except ValueError as error:
        raise PipelineError(f"--decoder: {error}") from error


def find_model(model: str) -> tuple[str, str, str, dict[str, str]]:
    """Return the names of the video and text encoder, the choice of weights and the options that a model means."""
    name, _, tag = model.partition("/")
    if model in OPENAI_NAMES:
        return "clip", "clip-text", "default", {}
    if Path(model).is_dir():
        return "hf", "hf-text", "default", {"model": model}
    if tag and name in model_names():
        return "clip", "clip-text", f"open_clip:{tag}", {"model": name}
    if name in model_names():
        import open_clip

        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise PipelineError(f"--model {model}: expected NAME/TAG; the tags of {name} are: {tags}")
    return "hf", "hf-text", "default", {"model": model}
