"""The page of the encoders of transformers: its configuration is read, its options exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from guides import DOCS, blocks_of

from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.sources import WeightSources
from mesm.pipeline.config.load import load_config

PAGE = DOCS / "encoders.md"


def test_the_pages_configuration_asks_for_models_by_short_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    file = tmp_path / "large.yaml"
    file.write_text(blocks_of(PAGE)[0].text)
    features = load_config(file).features
    offline = WeightSources(download=False)
    (stream,) = features.video
    with pytest.raises(WeightsError, match="facebook/vjepa2-vitl-fpc64-256"):
        create_video_encoder(stream.encoder, options=stream.options, clip_len_s=stream.clip_len, sources=offline)
    with pytest.raises(WeightsError, match=r"Qwen/Qwen2.5-1.5B"):
        create_text_encoder(features.text.encoder, options=features.text.options, sources=offline)


@pytest.mark.parametrize("encoder", ["hf", "hf-video", "hf-text"])
def test_the_pages_options_are_the_encoders(encoder: str) -> None:
    make: Any = create_text_encoder if encoder == "hf-text" else create_video_encoder
    with pytest.raises(EncoderError, match="no option nonsense") as refused:
        make(encoder, options={"nonsense": 1})
    known = str(refused.value).partition("its options: ")[2].split(", ")
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    documented = {line.split("`")[1] for line in rows} - {"hf", "hf-video", "hf-text"}
    assert set(known) <= documented
