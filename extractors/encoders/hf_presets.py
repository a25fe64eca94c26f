"""Short names of well-known models of the hub, for the encoders that read models of transformers.

Any other folder or hub id can be named in the place of these. Licences are those that the models' cards state; some ask
for consent on the hub before a download.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HfPreset:
    """One model of the hub."""

    name: str
    encoders: tuple[str, ...]
    """Those that read it: models of pictures and texts are read by two."""
    hub_id: str
    dim: int
    licence: str


_PAIR = ("hf", "hf-text")

_ROWS = (
    HfPreset("siglip2-base", _PAIR, "google/siglip2-base-patch16-224", 768, "Apache-2.0"),
    HfPreset("xclip-base", _PAIR, "microsoft/xclip-base-patch32", 512, "MIT"),
    HfPreset("dinov2-base", ("hf",), "facebook/dinov2-base", 768, "Apache-2.0"),
    HfPreset("dinov3-base", ("hf",), "facebook/dinov3-vitb16-pretrain-lvd1689m", 768, "DINOv3 licence, consent asked"),
    HfPreset("videomae-base", ("hf-video",), "MCG-NJU/videomae-base", 768, "CC-BY-NC-4.0"),
    HfPreset("timesformer-k400", ("hf-video",), "facebook/timesformer-base-finetuned-k400", 768, "CC-BY-NC-4.0"),
    HfPreset("vivit-k400", ("hf-video",), "google/vivit-b-16x2-kinetics400", 768, "MIT"),
    HfPreset("vjepa2-large", ("hf-video",), "facebook/vjepa2-vitl-fpc64-256", 1024, "MIT"),
    HfPreset("minilm", ("hf-text",), "sentence-transformers/all-MiniLM-L6-v2", 384, "Apache-2.0"),
    HfPreset("flan-t5-large", ("hf-text",), "google/flan-t5-large", 1024, "Apache-2.0"),
    HfPreset("qwen2.5-1.5b", ("hf-text",), "Qwen/Qwen2.5-1.5B", 1536, "Apache-2.0"),
)

PRESETS: Mapping[str, HfPreset] = {row.name: row for row in _ROWS}
