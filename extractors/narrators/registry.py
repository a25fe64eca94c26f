"""The narrators by name; any other name is that of a folder, or of a model on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PAPERS_PROMPT = (
    "This is one image frame sampled from a video. Please caption this frame in two or three sentences, to describe "
    "this frame with some details but without any analysis."
)
"""The prompt of TEA's paper, which is an input of its results."""


@dataclass(frozen=True)
class NarratorEntry:
    """A model that is known to work as a narrator."""

    model: str
    """Its name on the hub."""
    prompt: str
    """What it is asked for each frame; empty: nothing."""
    source: str
    needs: str = ""
    """A package that its processor wants beside transformers."""


NARRATORS: Mapping[str, NarratorEntry] = {
    "llava-1.5-13b": NarratorEntry("llava-hf/llava-1.5-13b-hf", PAPERS_PROMPT, "the narrator of TEA's tables"),
    "blip2-opt-6.7b": NarratorEntry("Salesforce/blip2-opt-6.7b", "", "TEA's other narrator, without a prompt"),
    "smolvlm-256m": NarratorEntry(
        "HuggingFaceTB/SmolVLM-256M-Instruct", PAPERS_PROMPT, "small enough for a laptop", needs="num2words"
    ),
}
DEFAULT = "llava-1.5-13b"


def find_narrator(name: str) -> NarratorEntry:
    """Return the row of a narrator; one for any other model, asked as the paper does, where there is none."""
    return NARRATORS.get(name, NarratorEntry(name, PAPERS_PROMPT, "not in the table"))
