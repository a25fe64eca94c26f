"""CLIP by open_clip: image features of one frame per clip, token states and sentence vectors of texts.

Source: Radford et al. 2021 (github.com/openai/CLIP), in the networks of open_clip. OpenAI's weights were
trained with QuickGELU, so their model is `ViT-B-32-quickgelu`; plain `ViT-B-32` would load them without a
complaint and be wrong.

Image: frames scaled so that the short side is the model's input size, centre crop, RGB / 255, CLIP's mean and
standard deviation; output (B, dim), projected and not L2-normalised, as the published features (512-d for
ViT-B/32).

Text: byte-pair encoding (lower-cased, ftfy, HTML unescaped) between a start and an end token; a sentence that
does not fit the context of 77 tokens is cut and keeps its end token. Output: token states after the final
norm, without the projection, start and end tokens included; the pooled vector is the end token's state,
projected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import open_clip
import torch
from torch import nn

from mesm.extractors.converters import convert_clip
from mesm.extractors.encoder import FramePlan, FrameTransform, TextFeatures, VideoInfo
from mesm.extractors.errors import EncoderError
from mesm.extractors.inference import NetworkVideoEncoder, VideoSettings, check_options, inference
from mesm.extractors.sampling import image_rows
from mesm.extractors.weights import Weights, build_network

OPENAI_MODEL = "ViT-B-32-quickgelu"

_OPTIONS = ("model", "architecture")

TEXTS_PER_BATCH = 64
"""Sentences that go through the network together."""


class ClipImageEncoder(NetworkVideoEncoder):
    """One frame per row through CLIP's image tower: projected, not normalised."""

    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take the frame at each clip's centre, or in `parity` mode those of the released features."""
        return FramePlan(image_rows(info, self.clip_len_s, self.settings.sampling), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Project (B, 3, 1, H, W) images to (B, dim)."""
        return self.network(clips.squeeze(2))


class ClipTextEncoder:
    """Sentences through CLIP's text tower: token states, token ids and the sentence vector."""

    name = "clip-text"

    def __init__(
        self,
        tower: Any,
        tokenizer: Callable[[list[str]], torch.Tensor],
        device: torch.device,
        spec: Mapping[str, Any],
    ) -> None:
        self.tower: Any = tower.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.device = device
        self.dim = int(tower.ln_final.weight.shape[0])
        self.spec = {"encoder": self.name, "dim": self.dim, "precision": "fp32", **spec}

    def encode(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences; one of more than 77 tokens is cut and keeps its end token."""
        features: list[TextFeatures] = []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            features += self._encode_batch(list(texts[start : start + TEXTS_PER_BATCH]))
        return features

    def _encode_batch(self, texts: list[str]) -> list[TextFeatures]:
        ids = self.tokenizer(texts)
        lengths = ids.argmax(dim=1) + 1  # the end token has the highest id
        with inference(self.device, "fp32"):
            states, pooled = self.states(ids[:, : int(lengths.max())].to(self.device))
        rows = zip(states.cpu().numpy(), pooled.cpu().numpy(), ids.numpy(), lengths.tolist(), strict=True)
        return [
            TextFeatures(tokens[:length].copy(), row_ids[:length].copy(), vector.copy())
            for tokens, vector, row_ids, length in rows
        ]

    def states(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states (B, L, dim) after the final norm and sentence vectors (B, pooled dim) of ids (B, L).

        The causal mask keeps padding out of every valid token, so that cutting it changes nothing but
        rounding.
        """
        tower, length = self.tower, ids.shape[1]
        tokens = tower.token_embedding(ids) + tower.positional_embedding[:length]
        tokens = tower.ln_final(tower.transformer(tokens, attn_mask=tower.attn_mask[:length, :length]))
        ends = tokens[torch.arange(len(ids), device=ids.device), ids.argmax(dim=1)]
        return tokens, _project(ends, tower.text_projection)


def _project(vectors: torch.Tensor, projection: nn.Module | torch.Tensor | None) -> torch.Tensor:
    if projection is None:
        return vectors
    return projection(vectors) if isinstance(projection, nn.Module) else vectors @ projection


def build_image_encoder(
    weights: Weights, settings: VideoSettings, options: Mapping[str, Any]
) -> ClipImageEncoder:
    """Build the image encoder. Options: `model` (a name of open_clip) or `architecture` (see `make_clip`)."""
    visual: Any = _build(weights, options).visual
    size = visual.image_size
    crop = (int(size[0]), int(size[1])) if isinstance(size, (tuple, list)) else (int(size), int(size))
    transform = FrameTransform(settings.resize, short_side=max(crop), exact=None, crop=crop)
    with torch.no_grad():
        dim = int(visual(torch.zeros(1, 3, *crop)).shape[1])
    spec = {"weights": weights.identity, **_architecture_spec(options)}
    return ClipImageEncoder(
        "clip", visual, settings, dim=dim, transform=transform, frames_per_row=1, spec=spec
    )


def build_text_encoder(weights: Weights, device: torch.device, options: Mapping[str, Any]) -> ClipTextEncoder:
    """Build the text encoder; options as the image encoder's. Raises EncoderError for other text towers."""
    network = _build(weights, options)
    tower: Any = getattr(network, "text", network)
    pooling = getattr(network, "text_pool_type", None) or getattr(tower, "pool_type", None)
    if pooling != "argmax" or tower.attn_mask is None or getattr(tower, "cls_emb", None) is not None:
        raise EncoderError(
            f"the text tower of {options.get('model', 'this architecture')} is not CLIP's causal one; "
            "use hf-text for other families"
        )
    if tower is network:
        del network.visual
    spec = {"weights": weights.identity, **_architecture_spec(options)}
    return ClipTextEncoder(tower, _tokenizer(options), device, spec)


def make_clip(options: Mapping[str, Any]) -> nn.Module:
    """Make a CLIP network with random weights.

    `architecture` holds open_clip's `embed_dim`, `vision_cfg`, `text_cfg` and optionally `quick_gelu`, for
    networks of any size; otherwise `model` names one of open_clip's own. Raises EncoderError for anything
    else.
    """
    if "architecture" in options:
        try:
            return open_clip.CLIP(**options["architecture"])
        except (TypeError, AssertionError, RuntimeError) as error:
            raise EncoderError(
                "option architecture of clip: expected embed_dim, vision_cfg, text_cfg and "
                f"optionally quick_gelu as open_clip has them ({error})"
            ) from error
    model = options.get("model", OPENAI_MODEL)
    if model not in open_clip.list_models():
        raise EncoderError(f"open_clip has no model {model!r}; open_clip.list_models() lists those it has")
    return open_clip.create_model(model, pretrained_image=False, pretrained_hf=False)


def _build(weights: Weights, options: Mapping[str, Any]) -> nn.Module:
    check_options("clip", options, _OPTIONS)
    if len(options) > 1:
        raise EncoderError("encoder clip takes the option model or the option architecture, not both")
    return build_network(lambda: make_clip(options), weights, convert_clip)


def _architecture_spec(options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(options) if options else {"model": OPENAI_MODEL}


def _tokenizer(options: Mapping[str, Any]) -> Callable[[list[str]], torch.Tensor]:
    if "architecture" in options:
        return open_clip.SimpleTokenizer(
            context_length=options["architecture"]["text_cfg"].get("context_length", 77)
        )
    return open_clip.get_tokenizer(options.get("model", OPENAI_MODEL))
