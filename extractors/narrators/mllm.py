"""A multi-modal language model of transformers as a narrator: one frame, one passage, greedy.

Any checkpoint that `AutoModelForImageTextToText` loads and whose processor takes images (LLaVA, BLIP-2, SmolVLM,
Idefics3, ...), from a local folder or from the hub. No code of a checkpoint is run, and no pickle is read.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.narrators.registry import find_narrator
from mesm.extractors.weights.hub_folders import digest, find_folder
from mesm.extractors.weights.sources import WeightSources

_SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
MAX_TOKENS = 96
"""Longest answer (ours; the paper does not say)."""


class Narrator:
    """Says what frames show."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        device: torch.device,
        prompt: str,
        max_tokens: int,
        identity: Mapping[str, Any],
    ) -> None:
        """Take a model and its processor; use `load_narrator`."""
        self.model, self.processor, self.device = model.to(device).eval(), processor, device
        self.prompt, self.max_tokens = prompt, max_tokens
        self.spec: dict[str, Any] = {**identity, "prompt": prompt, "max_tokens": max_tokens, "decoding": "greedy"}
        self.suppressed: list[int] = []
        """Tokens that are never said."""
        self._text = self._prompt_text()

    def _prompt_text(self) -> str | None:
        """What stands before the answer; the prompt is plain text, whatever it holds. None: nothing."""
        template = getattr(self.processor, "chat_template", None)
        if template is None:
            return self.prompt or None
        content: list[dict[str, str]] = [{"type": "image"}]
        if self.prompt:
            content.append({"type": "text", "text": self.prompt})
        message = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(message, add_generation_prompt=True))

    @torch.inference_mode()
    def narrate(self, frames: Sequence[np.ndarray]) -> list[str]:
        """Say what each (height, width, 3) uint8 RGB frame shows; may be empty."""
        from PIL import Image

        images = [[Image.fromarray(frame)] for frame in frames]
        texts = {} if self._text is None else {"text": [self._text] * len(frames), "padding": True}
        inputs = self.processor(images=images, return_tensors="pt", **texts)
        inputs = inputs.to(self.device, dtype=self.model.dtype)
        options: dict[str, Any] = {"suppress_tokens": self.suppressed} if self.suppressed else {}
        tokens = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_tokens, **options)
        # Without a text there is nothing to cut: BLIP-2's image tokens are special ones.
        said = tokens[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else tokens
        return [text.strip() for text in self.processor.batch_decode(said, skip_special_tokens=True)]


def load_narrator(
    name: str,
    device: torch.device,
    *,
    prompt: str | None = None,
    max_tokens: int = MAX_TOKENS,
    revision: str | None = None,
    precision: str = "fp32",
    sources: WeightSources | None = None,
) -> Narrator:
    """Load a narrator by its name here, a folder, or a name on the hub.

    prompt: None for the narrator's own. Raises WeightsError when its files are not to be had, and EncoderError when
    they are of a model that does not say what an image shows.
    """
    entry = find_narrator(name)
    if entry.needs and importlib.util.find_spec(entry.needs) is None:
        raise EncoderError(f"the narrator {name} needs the package {entry.needs}; run `pip install {entry.needs}`")
    download = (sources or WeightSources()).download
    folder = find_folder(entry.model, download, more=("*.jinja",), revision=revision)
    processor, model = _load(folder, precision)
    identity = {
        "narrator": name if not Path(name).is_dir() else Path(name).name,
        "weights": f"sha256:{digest(sorted(folder.glob('*.safetensors')))}",
        "settings": digest(sorted({path for pattern in _SETTINGS for path in folder.glob(pattern)})),
        "dtype": precision,
        "transformers": _transformers_version(),
    }
    return Narrator(model, processor, device, entry.prompt if prompt is None else prompt, max_tokens, identity)


def _load(folder: Path, precision: str) -> tuple[Any, Any]:
    """Return processor and model of a folder."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    # Bars of its own for every file, also where nobody watches.
    logging.disable_progress_bar()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        kind = AutoConfig.from_pretrained(folder, **local).model_type
        processor = AutoProcessor.from_pretrained(folder, **local)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise WeightsError(f"{folder} has no processor that transformers can load: {error}") from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise EncoderError(
            f"{folder} holds a {kind} with a {type(processor).__name__}, which takes no images beside text; expected a "
            "model that says what an image shows, such as llava-hf/llava-1.5-13b-hf"
        )
    processor.tokenizer.padding_side = "left"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    named = "dtype" if _version() >= (4, 56) else "torch_dtype"
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True, **{named: dtype}, **local)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"{folder} holds a {kind}, which is no narrator that transformers can load: {error}"
        ) from error
    return processor, model


def _transformers_version() -> str:
    import transformers

    return str(transformers.__version__)


def _version() -> tuple[int, int]:
    major, minor = _transformers_version().split(".")[:2]
    return int(major), int(minor)
