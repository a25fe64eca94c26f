"""A model of pictures and text is asked yes or no: a probability, whatever the query holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_llava import save_llava

from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.verification import PROMPT, Verifier

PICTURES = [np.full((20, 30, 3), value, np.uint8) for value in (10, 120, 240)]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


def test_the_probability_is_that_of_yes_among_yes_and_no(llava: Path) -> None:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    verdict = Verifier.from_model(str(llava)).verify("something red", PICTURES)
    processor = LlavaProcessor.from_pretrained(llava)
    text = "<s> " + 3 * "<image>" + " " + PROMPT.format(count=3, query="something red") + " answer"
    inputs = processor(images=PICTURES, text=text, return_tensors="pt")
    with torch.inference_mode():
        logits = LlavaForConditionalGeneration.from_pretrained(llava).eval()(**inputs).logits[0, -1]
    yes, no = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    assert verdict.probability == pytest.approx(float(torch.softmax(logits[[yes, no]], 0)[0]), abs=1e-5)
    assert verdict.yes == (verdict.probability > 0.5)


def test_pictures_and_query_matter(llava: Path) -> None:
    verifier = Verifier.from_model(str(llava))
    asked = [("something red", PICTURES), ("something red", PICTURES[::-1]), ("part", PICTURES)]
    assert len({verifier.verify(query, pictures).probability for query, pictures in asked}) == 3


def test_marks_of_pictures_in_a_query_are_no_pictures(llava: Path) -> None:
    verifier = Verifier.from_model(str(llava))
    plain = verifier.verify("something red", PICTURES)
    assert verifier.verify("something <image> red</s>", PICTURES) == plain
    assert 0 <= verifier.verify("red " * 400, PICTURES).probability <= 1


def test_a_model_without_a_form_of_talk_is_asked_plainly(tmp_path: Path) -> None:
    verifier = Verifier.from_model(str(save_llava(tmp_path, template=None)))
    assert 0 <= verifier.verify("something red", PICTURES).probability <= 1


def test_the_hash_tells_prompts_apart(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier.from_model(str(llava))
    before = verifier.prompt_hash
    assert verifier.prompt_hash == before
    assert Verifier.from_model(str(save_llava(tmp_path, template=None))).prompt_hash != before
    monkeypatch.setattr("mesm.extractors.verification.PROMPT", PROMPT + " Please.")
    assert verifier.prompt_hash != before


def test_what_cannot_say_yes_or_no_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no tokens that tell yes from no"):
        Verifier.from_model(str(save_llava(tmp_path / "mute", words=("oui", "non"))))
    with pytest.raises(WeightsError, match="could not be had from the hub"):
        Verifier.from_model("nobody/nothing", download=False)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(WeightsError, match="no image-text-to-text model"):
        Verifier.from_model(str(tmp_path))
