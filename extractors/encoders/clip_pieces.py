"""What open_clip keeps beside its code: the pieces of words that CLIP reads, and the names of its models.

Read without importing open_clip, which takes seconds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mesm.extractors.errors import EncoderError

if TYPE_CHECKING:
    import torch


def tokenizer(context_length: int) -> Callable[[list[str]], torch.Tensor]:
    """Return open_clip's tokenizer of CLIP's pieces: texts to ids (n, context_length)."""
    found: Callable[[list[str]], torch.Tensor] = _tokenizer_module().SimpleTokenizer(context_length=context_length)
    return found


def token_pieces() -> Mapping[int, str]:
    """Return the text of every token id of CLIP's byte-pair encoding; `</w>` closes a word."""
    found: Mapping[int, str] = _tokenizer_module().SimpleTokenizer().decoder
    return found


def model_names() -> list[str]:
    """Return the names of open_clip's models."""
    return sorted(path.stem for path in (open_clip_folder() / "model_configs").glob("*.json"))


def _tokenizer_module() -> ModuleType:
    """Import open_clip's file of the tokenizer alone: it needs nothing else of the package."""
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer_alone", open_clip_folder() / "tokenizer.py")
    if spec is None or spec.loader is None:
        raise EncoderError("open_clip has no tokenizer.py; install it again by `pip install open-clip-torch`")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_clip_folder() -> Path:
    """Return where open_clip is installed, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError("the package open_clip is not installed; pip install open-clip-torch")
    return Path(next(iter(spec.submodule_search_locations)))
