"""A Whisper of a few thousand random numbers, with its real processor, as a folder."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import torch

SPECIAL = ("startoftranscript", "en", "translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")


def save_whisper(folder: Path) -> Path:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    torch.manual_seed(0)
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, "<|endoftext|>"]
    tokenizer = WhisperTokenizer({word: number for number, word in enumerate(words)}, [])
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{name}|>" for name in SPECIAL]})
    tokenizer.add_tokens([f"<|{step * 0.02:.2f}|>" for step in range(1501)])
    end, start = len(letters), tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    size = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_mel_bins=16,
        max_target_positions=40,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        begin_suppress_tokens=None,
        suppress_tokens=None,
        **size,
    )
    network = WhisperForConditionalGeneration(config)
    network.generation_config = GenerationConfig(
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids("<|notimestamps|>"),
        decoder_start_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=end,
        max_length=40,
        is_multilingual=False,
        max_initial_timestamp_index=50,
        return_timestamps=True,
    )
    network.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder)
    return folder


def write_sound(path: Path, *parts: tuple[float, float], rate: int = 22050, start_s: float = 0.0) -> Path:
    """Write a film of grey frames whose sound has parts of so many seconds at a frequency each; 0 is silence."""
    samples = np.concatenate([0.5 * np.sin(2 * np.pi * hz * np.arange(int(s * rate)) / rate) for s, hz in parts])
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=5, options={"preset": "ultrafast"})
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate)
        sound.layout = "mono"
        picture = np.full((48, 64, 3), 120, np.uint8)
        seconds = start_s + len(samples) / rate
        for second in range(int(seconds) + 1):
            for _ in range(min(5, int(5 * (seconds - second)))):
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            part = samples[second * rate : (second + 1) * rate]
            if len(part):
                values = (part[None] * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
                frame.sample_rate, frame.pts = rate, int((start_s + second) * rate)
                container.mux(sound.encode(frame))
        for stream in (pictures, sound):
            container.mux(stream.encode())
    return path
