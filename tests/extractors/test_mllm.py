"""Narrators of the real classes, tiny and with random weights: they speak of frames, and are refused if they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_narrators import make_blip2, make_llava

from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.narrators.mllm import Narrator, load_narrator
from mesm.extractors.narrators.registry import NARRATORS, PAPERS_PROMPT, find_narrator
from mesm.extractors.weights.sources import WeightSources

CPU = torch.device("cpu")
MAKERS = {"llava": make_llava, "blip2": make_blip2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("narrators")
    return {name: make(root / name) for name, make in MAKERS.items()}


def load(folder: Path, prompt: str | None = None) -> Narrator:
    narrator = load_narrator(str(folder), CPU, prompt=prompt, max_tokens=6)
    narrator.suppressed = narrator.processor.tokenizer.all_special_ids
    return narrator


def frames(count: int = 4) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_passage_is_of_its_own_frame_whatever_is_beside_it(kind: str, folders: dict[str, Path]) -> None:
    narrator = load(folders[kind], None if kind == "llava" else "")
    together = narrator.narrate(frames())
    assert together == [narrator.narrate([frame])[0] for frame in frames()]
    assert all(len(text.split()) == 6 for text in together)
    assert len(set(together)) > 1


def test_a_prompt_is_plain_text(folders: dict[str, Path]) -> None:
    for prompt in ("{door} %s {{ 1 }}", "the {", "{% endfor %}"):
        narrator = load(folders["llava"], prompt)
        assert narrator._text is not None
        assert prompt in narrator._text
        assert narrator.narrate(frames(1))


def test_what_changes_a_word_is_in_the_specification(folders: dict[str, Path]) -> None:
    first = load(folders["llava"]).spec
    assert first["prompt"] == PAPERS_PROMPT
    assert first["narrator"] == "llava"
    assert load(folders["llava"], "the door").spec != first
    assert load_narrator(str(folders["llava"]), CPU, max_tokens=7).spec != first
    assert load(folders["blip2"]).spec["weights"] != first["weights"]


def test_a_model_that_takes_no_images_is_refused_by_name(tmp_path: Path, folders: dict[str, Path]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=8, **size)).save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((folders["llava"] / file).read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("processor_class", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises((EncoderError, WeightsError), match=r"llama|processor"):
        load_narrator(str(tmp_path), CPU)


def test_a_narrator_that_is_nowhere_says_where_its_files_are() -> None:
    with pytest.raises(WeightsError, match=r"https://huggingface.co/llava-hf/llava-1.5-13b-hf"):
        load_narrator("llava-1.5-13b", CPU, sources=WeightSources(download=False))


def test_presets_are_the_papers_narrators_and_a_small_one() -> None:
    assert NARRATORS["llava-1.5-13b"].model == "llava-hf/llava-1.5-13b-hf"
    assert (NARRATORS["blip2-opt-6.7b"].model, NARRATORS["blip2-opt-6.7b"].prompt) == ("Salesforce/blip2-opt-6.7b", "")
    assert find_narrator("somebody/model").prompt == PAPERS_PROMPT
