"""The two towers of a plain CLIP (Radford et al. 2021), under open_clip's names, and what open_clip keeps beside code.

open_clip takes seconds to import, as it brings models of every kind; a transformer and a list of pieces do not need it.
The numbers are those of open_clip's own towers. Models of another kind are left to open_clip.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mesm.extractors.encoders.clip_pieces import open_clip_folder
from mesm.extractors.weights.converters import refuse_misfits, refuse_not_finite

VISION_KEYS = {"image_size", "layers", "width", "head_width", "patch_size"}
TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers"}
PLAIN_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
IMAGE_PREFIX = "visual."
OF_NO_TOWER = "logit_scale"


class QuickGelu(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Gate values by the logistic of 1.702 times themselves."""
        return values * torch.sigmoid(1.702 * values)


class Block(nn.Module):
    """Attention and a feed-forward part, each behind a norm."""

    def __init__(self, width: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        gelu = QuickGelu() if quick_gelu else nn.GELU()
        parts = {"c_fc": nn.Linear(width, 4 * width), "gelu": gelu, "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Take and return (B, L, width); mask (L, L) is added to the attention's scores."""
        normed = self.ln_1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        out: torch.Tensor = tokens + self.mlp(self.ln_2(tokens))
        return out


class Transformer(nn.Module):
    """Blocks one after the other."""

    def __init__(self, width: int, layers: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick_gelu) for _ in range(layers))

    def forward(self, tokens: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Take and return (B, L, width)."""
        for block in self.resblocks:
            tokens = block(tokens, attn_mask)
        return tokens


class ImageTower(nn.Module):
    """Patches and a class token; the class token's state is projected."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        vision, quick_gelu = config["vision_cfg"], bool(config.get("quick_gelu"))
        width, patch = int(vision["width"]), int(vision["patch_size"])
        self.image_size = image_size(config)
        count = (self.image_size[0] // patch) * (self.image_size[1] // patch)
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(count + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, int(vision["layers"]), width // vision.get("head_width", 64), quick_gelu)
        self.proj = nn.Parameter(torch.empty(width, int(config["embed_dim"])))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, H, W) into (B, embed_dim)."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        tokens = self.transformer(self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding))
        out: torch.Tensor = self.ln_post(tokens)[:, 0] @ self.proj
        return out


class TextTower(nn.Module):
    """Causal states of tokens; the encoder projects that of the end token."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        text, quick_gelu = config["text_cfg"], bool(config.get("quick_gelu"))
        width, context = int(text.get("width", 512)), int(text.get("context_length", 77))
        # Drawing its initial values without a device would load torch's compiler, which takes seconds.
        vectors = torch.empty(int(text.get("vocab_size", 49408)), width)
        self.token_embedding = nn.Embedding(vectors.shape[0], width, _weight=vectors)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        layers, heads = int(text.get("layers", 12)), int(text.get("heads", 8))
        self.transformer = Transformer(width, layers, heads, quick_gelu)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, int(config["embed_dim"])))
        self.attn_mask = torch.full((context, context), -torch.inf, device="cpu").triu(1)


def plain_config(options: Mapping[str, Any], default_model: str) -> Mapping[str, Any] | None:
    """Return the architecture that options ask for, when it is a plain CLIP of two transformers; else None."""
    if "architecture" in options:
        config = dict(options["architecture"])
    else:
        path = open_clip_folder() / "model_configs" / f"{options.get('model', default_model)}.json"
        if not path.is_file():
            return None
        config = json.loads(path.read_text(encoding="utf-8"))
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    known = set(config) <= PLAIN_KEYS and set(vision) <= VISION_KEYS and set(text) <= TEXT_KEYS
    if not known or not isinstance(vision.get("layers"), int) or "patch_size" not in vision:
        return None
    return config


def image_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the (height, width) of the pictures that a plain CLIP takes."""
    size = config["vision_cfg"].get("image_size", 224)
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) else (int(size), int(size))


def load_tower(config: Mapping[str, Any], state: Mapping[str, torch.Tensor], images: bool, source: str) -> nn.Module:
    """Build one tower and fill it; every tensor of the file must have its place in one of the two, see `load_exactly`.

    images: the image tower, else the text tower; state: open_clip's names, in any precision. The tower is in float32.
    """
    with torch.device("meta"):
        towers = {IMAGE_PREFIX: ImageTower(config), "": TextTower(config)}
    expected: dict[str, tuple[int, ...]] = {OF_NO_TOWER: ()}
    for prefix, tower in towers.items():
        expected |= {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    refuse_misfits(expected, state, source)
    prefix = IMAGE_PREFIX if images else ""
    tower = towers[prefix]
    # Copied, as the file may be mapped, and files change.
    own = {name: state[f"{prefix}{name}"].to(torch.float32, copy=True) for name in tower.state_dict()}
    refuse_not_finite(own, source)
    tower.load_state_dict(own, assign=True)
    return tower
