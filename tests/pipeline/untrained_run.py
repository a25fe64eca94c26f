"""A run directory with weights that nothing was trained with, where only the way through the house is tested."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from mesm.datasets.text.vocabulary import Vocabulary
from mesm.extractors.weights.sources import WeightSources
from mesm.model.network_config import Sizes
from mesm.model.registry import build_network
from mesm.pipeline.config.schema import Config, to_plain
from mesm.pipeline.extract.encoders import build_text_encoder, build_video_encoders, encoder_fingerprint
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.directory import RunDirectory

CPU = torch.device("cpu")


def save_untrained_run(folder: Path, config: Config) -> Path:
    """A run directory as training leaves it, with seeded weights."""
    encoders = [
        *build_video_encoders(config, CPU, WeightSources()),
        build_text_encoder(config.features.text, CPU, WeightSources()),
    ]
    sizes = Sizes(encoders[0].dim + 2, encoders[1].dim, 203)
    torch.manual_seed(0)
    model = build_network(config.model, sizes)
    run = RunDirectory(folder)
    run.create()
    meta = {
        "config": to_plain(config),
        "sizes": asdict(sizes),
        "text": {},
        "vocabulary": Vocabulary((), 200, 49406, 49407).to_json(),
        "fingerprints": {encoder.name: encoder_fingerprint(encoder) for encoder in encoders},
    }
    run.save(BEST, {f"model.{name}": value for name, value in model.state_dict().items()}, meta)
    return folder
