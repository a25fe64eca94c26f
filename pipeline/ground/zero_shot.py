"""Answers without a checkpoint: how well each frame fits the sentence, by an image-text model, and spans of that curve.

    grounder = ZeroShot.from_model()
    video = grounder.encode_video("kitchen.mp4")
    for moment in grounder.ground(video, "a person opens the fridge").moments:
        print(moment.start_s, moment.end_s, moment.score)

Nothing is trained on moments. A video of any length is read as a whole, see `mesm.model.curves.video`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from mesm.extractors.contracts import SentenceEncoder, TextEncoder, VideoEncoder
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.extractors.weights.sources import UNTRAINED_PREFIX, WeightSources
from mesm.model.curves.video import Reading, default_reading, find_spans, in_seconds, similarity
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import ExtractConfig
from mesm.pipeline.ground.answers import EncodedVideo, GroundingResult, Moment
from mesm.pipeline.ground.encoding import encode_video
from mesm.pipeline.ground.prompts import GENERIC, TEMPLATES

DEFAULT_MODEL = "ViT-B-32/openai"
ROW_S = 1.0
"""Seconds of a row: the frame at their centre."""
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

    @classmethod
    def from_model(
        cls, model: str = DEFAULT_MODEL, device: str | torch.device = "cpu", sources: WeightSources | None = None
    ) -> ZeroShot:
        """Build the encoders of a model: NAME/TAG of open_clip, or a folder or hub id of transformers.

        Raises the extractors' WeightsError when weights are not to be had, EncoderError when the model is none of these
        families.
        """
        video, text, weights, options = find_model(model)
        sources = sources or WeightSources()
        return cls(
            create_video_encoder(
                video, weights=weights, clip_len_s=ROW_S, device=device, options=options, sources=sources
            ),
            create_text_encoder(text, weights=weights, device=device, options=options, sources=sources),
            device,
            model=model,
        )

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
        return encode_video(path, [self.encoder], self.device, ExtractConfig(), cache)

    def ground(self, video: EncodedVideo, query: str, top_k: int = 5) -> GroundingResult:
        """Answer a query: the `top_k` best spans.

        A score ranks the spans of one video and is no probability. A query longer than the model reads is cut, which
        the result says; an empty one is a PipelineError.
        """
        query = query.strip()
        if not query:
            raise PipelineError("the query is empty; describe the moment in a sentence")
        vectors, cut = self._sentences([template.format(query) for template in TEMPLATES])
        rows = video.streams[0]
        curve = similarity(rows, vectors.mean(0), self._generic)
        spans = in_seconds(find_spans(curve, video.row_s, self.reading, rows), video.row_s, video.duration_s)
        moments = [Moment(*(round(float(x), 4) for x in span)) for span in spans[:top_k]]
        return GroundingResult(query, moments, curve.astype(np.float32), video.row_s, cut[0])

    @cached_property
    def _generic(self) -> np.ndarray:
        """Mean of the vectors of sentences that fit any picture."""
        return self._sentences(GENERIC)[0].mean(0)

    def _sentences(self, texts: Sequence[str]) -> tuple[np.ndarray, list[bool]]:
        """Return normalised vectors (n, D) of sentences, and whether each was cut."""
        features = self.text.encode(texts)
        vectors = np.array([sentence.pooled for sentence in features], np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(norms, 1e-12), [sentence.cut for sentence in features]


def find_model(model: str) -> tuple[str, str, str, dict[str, str]]:
    """Return the names of the video and text encoder, the choice of weights and the options that a model means."""
    name, _, tag = model.partition("/")
    if model in OPENAI_NAMES:
        return "clip", "clip-text", "default", {}
    import open_clip

    if tag and not Path(model).is_dir() and name in open_clip.list_models():
        return "clip", "clip-text", f"open_clip:{tag}", {"model": name}
    if name in open_clip.list_models():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise PipelineError(f"--model {model}: expected NAME/TAG; the tags of {name} are: {tags}")
    return "hf", "hf-text", "default", {"model": model}
