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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mesm.extractors.contracts import FramePlan, FrameTransform, TextFeatures, VideoInfo
from mesm.extractors.decoding.sampling import image_rows
from mesm.extractors.encoders.clip_pieces import tokenizer
from mesm.extractors.encoders.clip_towers import image_size, load_tower, plain_config
from mesm.extractors.encoders.network_encoder import (
    NetworkTextEncoder,
    NetworkVideoEncoder,
    VideoSettings,
    check_options,
    inference,
)
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.converters import clip_state, convert_clip
from mesm.extractors.weights.sources import WeightsFile, WeightsRequest, build_network, read_weights

OPENAI_MODEL = "ViT-B-32-quickgelu"
OPENAI_WEIGHTS = "openai-clip-vit-b-32"
OPEN_CLIP_PREFIX = "open_clip:"

CONTEXT_LENGTH = 77
_OPTIONS = ("model", "architecture")


class ClipImageEncoder(NetworkVideoEncoder):
    """One frame per row through CLIP's image tower: projected, not normalised."""

    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take the frame at each clip's centre, or in `parity` mode those of the released features."""
        return FramePlan(image_rows(info, self.clip_len_s, self.settings.sampling), self.transform)

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Project (B, 3, 1, H, W) images to (B, dim)."""
        return _pooled(self.network(clips.squeeze(2)))


class ClipTextEncoder(NetworkTextEncoder):
    """Sentences through CLIP's text tower: token states, token ids and the sentence vector."""

    name = "clip-text"

    def __init__(
        self,
        tower: Any,
        tokenizer: Callable[..., torch.Tensor],
        device: torch.device,
        spec: Mapping[str, Any],
    ) -> None:
        super().__init__(device, int(tower.ln_final.weight.shape[0]), spec)
        self.tower: Any = tower.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.max_tokens = int(tower.positional_embedding.shape[0])
        self.special_tokens = 2

    def encode_batch(self, texts: list[str]) -> list[TextFeatures]:
        """Encode sentences together; one of more than 77 tokens is cut and keeps its end token."""
        ids = self.tokenizer(texts)
        lengths = ids.argmax(dim=1) + 1  # the end token has the highest id
        with inference(self.device, "fp32"):
            states, pooled = self.states(ids[:, : int(lengths.max())].to(self.device))
        cut = [length == self.max_tokens and self._is_cut(t) for t, length in zip(texts, lengths.tolist(), strict=True)]
        rows = zip(states.cpu().numpy(), pooled.cpu().numpy(), ids.numpy(), lengths.tolist(), cut, strict=True)
        return [
            TextFeatures(tokens[:length].copy(), row_ids[:length].copy(), vector.copy(), is_cut)
            for tokens, vector, row_ids, length, is_cut in rows
        ]

    def _is_cut(self, text: str) -> bool:
        """Say whether a sentence has more tokens than are read: with room for one more, it ends later."""
        return int(self.tokenizer([text], self.max_tokens + 1).argmax()) >= self.max_tokens

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


def _pooled(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the image vectors, which some towers give together with their tokens."""
    return output[0] if isinstance(output, tuple) else output


def _project(vectors: torch.Tensor, projection: nn.Module | torch.Tensor | None) -> torch.Tensor:
    if projection is None:
        return vectors
    return projection(vectors) if isinstance(projection, nn.Module) else vectors @ projection


@dataclass(frozen=True)
class _Clip:
    network: Any
    spec: dict[str, Any]
    pretrained: Mapping[str, Any]
    """What open_clip knows of these weights: for some, `mean`, `std` and `resize_mode` are not CLIP's."""


def build_image_encoder(
    request: WeightsRequest, settings: VideoSettings, options: Mapping[str, Any]
) -> ClipImageEncoder:
    """Build the image encoder.

    Options: `model`, a name of open_clip, or `architecture` (see `make_clip`). Weights: besides the table's,
    files and `untrained:SEED`, `open_clip:TAG` takes one of open_clip's own for that model.
    """
    plain = _plain(request, options)
    if plain is not None:
        config, weights, spec = plain
        crop = image_size(config)
        transform = FrameTransform(settings.resize, short_side=max(crop), exact=None, crop=crop)

        def tower() -> nn.Module:
            return load_tower(config, clip_state(read_weights(weights)), images=True, source=str(weights.path))

        network = tower if settings.deferred else tower()
        dim = int(config["embed_dim"])
        return ClipImageEncoder("clip", network, settings, dim=dim, transform=transform, frames_per_row=1, spec=spec)
    clip = _build(request, options)
    visual = clip.network.visual
    size = visual.image_size
    crop = (int(size[0]), int(size[1])) if isinstance(size, (tuple, list)) else (int(size), int(size))
    squashed = clip.pretrained.get("resize_mode") == "squash"
    transform = FrameTransform(
        settings.resize,
        short_side=None if squashed else max(crop),
        exact=crop if squashed else None,
        crop=crop,
    )
    with torch.no_grad():
        dim = int(_pooled(visual.eval()(torch.zeros(1, 3, *crop))).shape[1])
    encoder = ClipImageEncoder("clip", visual, settings, dim=dim, transform=transform, frames_per_row=1, spec=clip.spec)
    encoder.mean = tuple(clip.pretrained.get("mean") or encoder.mean)
    encoder.std = tuple(clip.pretrained.get("std") or encoder.std)
    return encoder


def build_text_encoder(request: WeightsRequest, device: torch.device, options: Mapping[str, Any]) -> ClipTextEncoder:
    """Build the text encoder; options and weights as the image encoder's.

    Raises EncoderError for text towers that are not CLIP's.
    """
    plain = _plain(request, options)
    if plain is not None:
        config, weights, spec = plain
        found = load_tower(config, clip_state(read_weights(weights)), images=False, source=str(weights.path))
        context = int(config["text_cfg"].get("context_length", CONTEXT_LENGTH))
        return ClipTextEncoder(found, tokenizer(context), device, spec)
    clip = _build(request, options)
    network = clip.network
    tower = getattr(network, "text", network)
    pooling = getattr(network, "text_pool_type", None) or getattr(tower, "pool_type", None)
    if pooling != "argmax" or tower.attn_mask is None or getattr(tower, "cls_emb", None) is not None:
        raise EncoderError(
            f"the text tower of {options.get('model', 'this architecture')} is not CLIP's causal one; "
            "hf-text takes other families"
        )
    if tower is network:
        del network.visual
    return ClipTextEncoder(tower, _tokenizer(options), device, clip.spec)


def _plain(
    request: WeightsRequest, options: Mapping[str, Any]
) -> tuple[Mapping[str, Any], WeightsFile, dict[str, Any]] | None:
    """Return architecture, file and spec of a plain CLIP whose weights are a file; None: open_clip has to build it.

    Random weights are drawn as open_clip draws them.
    """
    if len(options) > 1 or set(options) - set(_OPTIONS) or request.choice.startswith(OPEN_CLIP_PREFIX):
        return None
    architecture = dict(options) or {"model": OPENAI_MODEL}
    config = plain_config(architecture, OPENAI_MODEL)
    if config is None:
        return None
    weights = request.resolve(OPENAI_WEIGHTS if architecture == {"model": OPENAI_MODEL} else None)
    if not isinstance(weights, WeightsFile):
        return None
    return config, weights, {"weights": weights.identity, **architecture}


def make_clip(options: Mapping[str, Any], quick_gelu: bool = False) -> Any:
    """Make a CLIP network with random weights.

    `architecture` holds open_clip's `embed_dim`, `vision_cfg`, `text_cfg` and optionally `quick_gelu`, for
    networks of any size; otherwise `model` names one of open_clip's own. Raises EncoderError for anything
    else.
    """
    import open_clip

    if "architecture" in options:
        build, config = open_clip.CLIP, dict(options["architecture"])
    else:
        build, config = _open_clip_config(options.get("model", OPENAI_MODEL))
        config["quick_gelu"] = quick_gelu or config.get("quick_gelu", False)
    try:
        return build(**config)
    except (TypeError, AssertionError, RuntimeError, OSError) as error:
        raise EncoderError(
            f"open_clip cannot build the network ({error}); option architecture is expected to hold "
            "embed_dim, vision_cfg, text_cfg and optionally quick_gelu as open_clip has them"
        ) from error


def _open_clip_config(model: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the class and configuration of a model of open_clip, without its towers' own weights."""
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise EncoderError(f"open_clip has no model {model!r}; open_clip.list_models() lists those it has")
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    other_text = "hf_model_name" in config["text_cfg"]
    if other_text:
        config["text_cfg"]["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or other_text
    if "multimodal_cfg" in config:
        return open_clip.CoCa, config
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP), config


def _build(request: WeightsRequest, options: Mapping[str, Any]) -> _Clip:
    check_options("clip", options, _OPTIONS)
    if len(options) > 1:
        raise EncoderError("encoder clip takes the option model or the option architecture, not both")
    architecture = dict(options) or {"model": OPENAI_MODEL}
    pretrained: Mapping[str, Any] = {}
    if request.choice.startswith(OPEN_CLIP_PREFIX):
        pretrained = _pretrained(request, architecture)
        request = WeightsRequest(str(_from_hub(request, pretrained)), request.sources)
    weights = request.resolve(OPENAI_WEIGHTS if architecture == {"model": OPENAI_MODEL} else None)
    quick_gelu = bool(pretrained.get("quick_gelu"))
    network = build_network(lambda _: make_clip(architecture, quick_gelu), weights, convert_clip)
    spec = {"weights": weights.identity, **architecture, **({"quick_gelu": True} if quick_gelu else {})}
    return _Clip(network, spec, pretrained)


def _pretrained(request: WeightsRequest, architecture: Mapping[str, Any]) -> Mapping[str, Any]:
    import open_clip

    model, tag = architecture.get("model", ""), request.choice.removeprefix(OPEN_CLIP_PREFIX)
    found = open_clip.get_pretrained_cfg(model, tag)
    if not found.get("hf_hub"):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) if model else "none"
        raise WeightsError(f"open_clip has no weights {tag!r} on the hub for {model!r}; its tags: {tags}")
    return found


def _from_hub(request: WeightsRequest, pretrained: Mapping[str, Any]) -> Path:
    """Return the file of open_clip's weights, from the hub or its cache."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    repository, _, filename = pretrained["hf_hub"].rpartition("/")
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                repository,
                filename or "open_clip_model.safetensors",
                local_files_only=not request.sources.download,
            )
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise WeightsError(
            f"weights {request.choice} could not be had ({error}). Get {filename or 'the weights'} from "
            f"https://huggingface.co/{repository} and give the file's path instead"
        ) from error


def _tokenizer(options: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    if "architecture" in options:
        return tokenizer(int(options["architecture"]["text_cfg"].get("context_length", CONTEXT_LENGTH)))
    import open_clip

    return open_clip.get_tokenizer(options.get("model", OPENAI_MODEL))
