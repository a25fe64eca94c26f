"""What is said in a film, by Whisper: any model of that family of transformers, from a folder or from the hub.

The sound is heard in windows of 30 s, as the model was trained. A window after which a sentence goes on is followed by
one that begins with that sentence, otherwise by the next 30 s (after Radford et al. 2022, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mesm.extractors import torchvision_without_operators as _  # noqa: F401 - transformers imports torchvision
from mesm.extractors.decoding.sound import RATE, SoundReader
from mesm.extractors.errors import EncoderError, WeightsError
from mesm.extractors.weights.hub_folders import digest, find_folder, load_network, settings_files, weight_files

WINDOW_S = 30.0
SHORTEST_STEP_S = 1.0
"""A window begins at least so much later than the one before."""
AT_END_S = 0.5
"""A sentence that ends so near to its window's end may go on."""
SILENT = 1e-3
"""Root mean square, of 1 at full scale, below which nothing is said: the model invents words in silence."""
IDENTITY_DIGITS = 12


@dataclass(frozen=True)
class Said:
    """Words with their seconds in the film."""

    start_s: float
    end_s: float
    text: str


class Transcriber:
    """A Whisper network with its processor."""

    def __init__(self, network: Any, processor: Any, device: str | torch.device, model: str, identity: str) -> None:
        """Put a network and its processor together; identity: of the files that they came from."""
        self.network, self._processor = network.eval().to(device), processor
        self._device = torch.device(device)
        self.name = f"{model} {identity}"
        """The model as it was named, and which files it is: another one transcribes anew."""
        self._first_time = int(network.generation_config.no_timestamps_token_id) + 1

    @classmethod
    def from_model(cls, model: str, device: str | torch.device = "cpu", download: bool = True) -> Transcriber:
        """Load a folder, or a model of the hub; WeightsError when it is not to be had, EncoderError when no Whisper."""
        from transformers import AutoConfig, AutoProcessor, WhisperForConditionalGeneration
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # it warns of options that it sets itself
        folder = find_folder(model, download)
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if config.model_type != "whisper":
                raise EncoderError(f"{model} is a model of the family {config.model_type}; expected a Whisper one")
            network = load_network(WhisperForConditionalGeneration, folder).float()
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(f"{folder} is not a model that transformers can load: {error}") from error
        if getattr(network.generation_config, "no_timestamps_token_id", None) is None:
            raise EncoderError(f"{folder} says no times: its generation_config.json has no no_timestamps_token_id")
        identity = digest([*weight_files(folder), *settings_files(folder)])[:IDENTITY_DIGITS]
        return cls(network, processor, device, model, identity)

    def transcribe(self, film: Path, from_s: float = 0.0) -> Iterator[tuple[list[Said], float]]:
        """Yield what is said, a window at a time, each with the second up to which the film is heard then.

        Begin at `from_s`, which an earlier run came to. Raises a VideoError when the film has no sound that can be
        decoded; a film without a sound track says nothing.
        """
        with SoundReader(film) as sound:
            start_s = from_s
            while True:
                samples = sound.read(start_s, WINDOW_S)
                if not len(samples):
                    return
                found, step_s = self._heard(samples)
                said = [Said(start_s + one.start_s, start_s + one.end_s, one.text) for one in found]
                start_s += step_s
                yield said, start_s

    def _heard(self, samples: np.ndarray) -> tuple[list[Said], float]:
        """Return what is said in a window, and after how many seconds the next one begins."""
        length_s = len(samples) / RATE
        if float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) < SILENT:
            return [], WINDOW_S
        said = [Said(start, min(end, length_s), self._text(tokens)) for start, end, tokens in self._segments(samples)]
        said = [one for one in said if one.text and 0 <= one.start_s < one.end_s]
        return goes_on(said) if length_s >= WINDOW_S else (said, WINDOW_S)

    @torch.inference_mode()
    def _segments(self, samples: np.ndarray) -> list[tuple[float, float, list[int]]]:
        """Return the sentences of a window: start and end in its seconds, and tokens."""
        heard = self._processor(samples, sampling_rate=RATE, return_tensors="pt")
        spectrum = heard.input_features.to(self._device)
        answer = self.network.generate(
            spectrum, return_timestamps=True, return_segments=True, do_sample=False, num_beams=1
        )
        return [(float(one["start"]), float(one["end"]), one["tokens"].tolist()) for one in answer["segments"][0]]

    def _text(self, tokens: list[int]) -> str:
        words = [token for token in tokens if token < self._first_time]
        text: str = self._processor.tokenizer.decode(words, skip_special_tokens=True)
        return " ".join(text.split())


def goes_on(said: list[Said]) -> tuple[list[Said], float]:
    """Return what a whole window says for itself, and where the next one begins.

    A sentence that reaches the window's end may go on: it is left to the next window, which begins with it.
    """
    last = said[-1] if said else None
    if last is None or last.end_s < WINDOW_S - AT_END_S or last.start_s < SHORTEST_STEP_S:
        return said, WINDOW_S
    return said[:-1], last.start_s
