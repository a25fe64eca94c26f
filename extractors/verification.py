"""Whether pictures show what a sentence says: yes or no, and a probability, by a model that reads pictures and text.

Any image-text-to-text model of transformers, from a folder or from the hub. It is asked once, and nothing is generated:
the probability is that of the word yes as the first word of its answer, among yes and no. It is never asked for times.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch

from mesm.extractors import torchvision_without_operators as _  # noqa: F401 - transformers imports torchvision
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.hub_folders import digest, find_folder, load_network, settings_files, weight_files

PROMPT = (
    "These pictures are {count} frames of one part of a video, in the order of time. "
    'Does this part show the following: "{query}"? Answer with one word, yes or no.'
)
YES, NO = ("yes", "Yes", " yes", " Yes"), ("no", "No", " no", " No")
IDENTITY_DIGITS = 12
LONGEST_QUERY = 500
"""Characters of a query that are asked about."""


@dataclass(frozen=True)
class Verdict:
    """What the model says of one part of a film."""

    probability: float
    """Of yes, among yes and no."""

    @property
    def yes(self) -> bool:
        """Whether yes is likelier than no."""
        return self.probability > 0.5


class Verifier:
    """An image-text-to-text network with its processor."""

    def __init__(self, network: Any, processor: Any, device: str | torch.device, model: str, identity: str) -> None:
        """Put a network and its processor together; EncoderError when its tokenizer has no words for yes and no."""
        self.network, self._processor = network.eval().to(device), processor
        self._device = torch.device(device)
        self.name = f"{model} {identity}"
        """The model as it was named, and which files it is."""
        # Most networks can leave out the logits of every word of the question.
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in signature(network.forward).parameters else {}
        self._yes, self._no = self._first_tokens(YES), self._first_tokens(NO)
        if not self._yes or not self._no or self._yes & self._no:
            raise EncoderError(f"the tokenizer of {model} has no tokens that tell yes from no")

    @classmethod
    def from_model(cls, model: str, device: str | torch.device = "cpu", download: bool = True) -> Verifier:
        """Load a folder, or a model of the hub; WeightsError when it is not to be had or of another kind."""
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = find_folder(model, download, more=("*.jinja",))
        try:
            network = load_network(AutoModelForImageTextToText, folder)
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(
                f"{folder} is no image-text-to-text model that transformers can load: {error}"
            ) from error
        if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
            raise EncoderError(f"{folder} holds a {type(processor).__name__}; expected one of pictures and text")
        identity = digest([*weight_files(folder), *settings_files(folder)])[:IDENTITY_DIGITS]
        return cls(network, processor, device, model, identity)

    @property
    def prompt_hash(self) -> str:
        """12 hex digits of the words that the model is asked with, by which answers of other words are known."""
        text = repr((PROMPT, YES, NO, getattr(self._processor, "chat_template", None)))
        return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_DIGITS]

    @torch.inference_mode()
    def verify(self, query: str, pictures: Sequence[np.ndarray]) -> Verdict:
        """Ask whether pictures (height, width, 3) uint8, in order of time, show what a query says."""
        words = PROMPT.format(count=len(pictures), query=self._plain(query))
        inputs = self._processor(images=list(pictures), text=self._asked(words, len(pictures)), return_tensors="pt")
        inputs = {
            name: value.to(self._device, self.network.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        logits = self.network(**inputs, **self._last_only).logits[0, -1].float()
        yes = torch.logsumexp(logits[sorted(self._yes)], 0)
        no = torch.logsumexp(logits[sorted(self._no)], 0)
        return Verdict(float(torch.sigmoid(yes - no)))

    def _asked(self, words: str, count: int) -> str:
        """Return the whole text: by the model's own form of a talk, or the pictures and then the question."""
        processor = self._processor
        if getattr(processor, "chat_template", None):
            content = [*({"type": "image"} for _ in range(count)), {"type": "text", "text": words}]
            asked: str = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            return asked
        return f"{getattr(processor, 'image_token', '<image>') * count}\n{words}\nAnswer:"

    def _plain(self, query: str) -> str:
        """Return a query without what the model would take for more than words, such as the mark of a picture."""
        marks = {*self._processor.tokenizer.all_special_tokens, getattr(self._processor, "image_token", "")} - {""}
        for mark in sorted(marks, key=len, reverse=True):
            query = query.replace(str(mark), " ")
        return " ".join(query.split())[:LONGEST_QUERY]

    def _first_tokens(self, words: Sequence[str]) -> set[int]:
        tokenizer = self._processor.tokenizer
        found = {tuple(tokenizer(word, add_special_tokens=False).input_ids)[:1] for word in words}
        return {token for tokens in found for token in tokens} - {tokenizer.unk_token_id}
