"""Text models of transformers: states of tokens.

Of models for pictures and texts (CLIP, SigLIP, X-CLIP): the text tower's last hidden states and the vector of
`get_text_features`, cut to the model's context. SigLIP sees its padding, as it was trained; the others are masked.

Of models of text alone (BERT, MPNet, the encoder of T5, language models such as Llama or Qwen): the states that
option `layer` names (see `hf_states`), tokens by the checkpoint's own tokenizer, at most MAX_TOKENS of them. These have
no vectors in the space of pictures. Option `precision`: `fp32`, or `bf16` to hold a large model in half the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mesm.extractors.contracts import TextFeatures
from mesm.extractors.encoders.hf_folder import is_pair, load_model
from mesm.extractors.encoders.hf_image import pooled
from mesm.extractors.encoders.hf_states import Reading, reading_of
from mesm.extractors.encoders.network_encoder import NetworkTextEncoder, check_options, inference
from mesm.extractors.errors import EncoderError
from mesm.extractors.weights.sources import WeightsRequest

NAME = "hf-text"
MAX_TOKENS = 512
"""Tokens that are read of a sentence by models whose context is longer, or has no end."""
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class HfTextEncoder(NetworkTextEncoder):
    """Sentences through the text tower: last hidden states, token ids and what `get_text_features` gives."""

    name = NAME

    def __init__(self, network: Any, tokenizer: Any, device: torch.device, spec: Mapping[str, Any]) -> None:
        super().__init__(device, int(network.config.text_config.hidden_size), spec)
        self.network = network.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.max_tokens = int(network.config.text_config.max_position_embeddings)
        self.special_tokens = int(tokenizer.num_special_tokens_to_add())
        self.sees_padding = "siglip" in network.config.model_type

    def encode_batch(self, texts: list[str]) -> list[TextFeatures]:
        """Encode sentences together; one longer than the model's context is cut by its tokenizer."""
        ids, mask, cut = _tokens(self.tokenizer, texts, self.max_tokens, whole=self.sees_padding)
        states, vectors = self.states(ids.to(self.device), mask.to(self.device))
        rows = zip(states.cpu(), ids, mask, vectors.cpu(), cut, strict=True)
        return [
            TextFeatures(tokens[kept].numpy(), row_ids[kept].numpy(), vector.numpy().copy(), is_cut)
            for tokens, row_ids, kept, vector, is_cut in rows
        ]

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return last states (B, L, dim) and sentence vectors (B, pooled dim) of ids and mask (B, L)."""
        captured: list[torch.Tensor] = []
        hook = self.network.text_model.register_forward_hook(
            lambda _module, _inputs, output: captured.append(output.last_hidden_state)
        )
        attention = {} if self.sees_padding else {"attention_mask": mask.long()}
        try:
            with inference(self.device, "fp32"):
                vectors = pooled(self.network.get_text_features(input_ids=ids, **attention))
        finally:
            hook.remove()
        return captured[0], vectors


class HfTokenEncoder(NetworkTextEncoder):
    """Sentences through a model of text alone: states of the tokens."""

    name = NAME

    def __init__(
        self, network: Any, tokenizer: Any, device: torch.device, reading: Reading, spec: Mapping[str, Any]
    ) -> None:
        super().__init__(device, reading.dim, spec)
        self.network = network.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.reading = reading
        self.max_tokens = _context(network.config, tokenizer)

    def encode_batch(self, texts: list[str]) -> list[TextFeatures]:
        """Encode sentences together; one longer than `max_tokens` is cut by the tokenizer."""
        ids, mask, cut = _tokens(self.tokenizer, texts, self.max_tokens)
        with inference(self.device, "fp32"):
            given = {"input_ids": ids.to(self.device), "attention_mask": mask.long().to(self.device)}
            states = self.reading.states(self.network, **given).float().cpu()
        rows = zip(states, ids, mask, cut, strict=True)
        return [
            TextFeatures(tokens[kept].numpy(), row_ids[kept].numpy(), None, is_cut)
            for tokens, row_ids, kept, is_cut in rows
        ]


def _tokens(
    tokenizer: Any, texts: list[str], length: int, whole: bool = False
) -> tuple[torch.Tensor, torch.Tensor, list[bool]]:
    """Return ids and mask (B, L), L = `length` if `whole`, and which sentences were cut."""
    batch = tokenizer(
        texts,
        padding="max_length" if whole else True,
        truncation=True,
        max_length=length,
        return_attention_mask=True,
        return_tensors="pt",
    )
    cut = [len(tokens) > length for tokens in tokenizer(texts, verbose=False)["input_ids"]]
    return batch["input_ids"], batch["attention_mask"].bool(), cut


def _context(config: Any, tokenizer: Any) -> int:
    """Return how many tokens a model of text reads."""
    return min(MAX_TOKENS, int(tokenizer.model_max_length), int(getattr(config, "max_position_embeddings", MAX_TOKENS)))


def build_encoder(
    request: WeightsRequest, device: torch.device, options: Mapping[str, Any]
) -> HfTextEncoder | HfTokenEncoder:
    """Build the text encoder of the folder or hub id that option `model`, or `weights`, names."""
    check_options(NAME, options, ("model", "layer", "precision"))
    precision = options.get("precision", "fp32")
    if precision not in _TYPES:
        raise EncoderError(f"encoder {NAME}: precision is {precision!r}; expected one of {', '.join(_TYPES)}")
    model = load_model(NAME, request, options.get("model"), device, _accepted, _TYPES[precision])
    tokenizer = _tokenizer(model.folder)
    if is_pair(model.network):
        check_options(f"{NAME} with a model of pictures and texts", options, ("model",))
        return HfTextEncoder(model.network, tokenizer, device, model.spec)
    reading = reading_of(NAME, model, options, pools=("mean",))
    spec = {**model.spec, "layer": reading.spec["layer"], "precision": precision}
    return HfTokenEncoder(model.network, tokenizer, device, reading, spec)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(f"{folder} holds no tokenizer that can be read: {error}") from error
    # States of a token depend on what is left of it in a language model: what is not there must be on its right.
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _accepted(network: Any, folder: Path) -> Any:
    """Return the part of the network that reads text."""
    if is_pair(network):
        return network
    if network.main_input_name != "input_ids":
        raise EncoderError(f"{folder} holds a {type(network).__name__}; expected a model of text")
    return network.get_encoder() if network.config.is_encoder_decoder else network
