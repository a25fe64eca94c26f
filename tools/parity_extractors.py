"""Compare the extractors with golden numbers: `python -m mesm.tools.parity_extractors FILE.npz...`.

A golden file holds what a reference network made of inputs and weights that a formula gives, with the
reference's own names of parameters. The weights go through the converters of released files into our
encoders, the frames through the encoders' own preprocessing. Compared are the features, other outputs,
preprocessed pixels, and of every listed stage that our network has the shape, 64 values, mean, standard
deviation and maximum. Differences are max|a - b| / max|ref|: with these weights the features share a large
common part, so that the cosine would hide mistakes.
"""

from __future__ import annotations

import contextlib
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from mesm.extractors.encoders.network_encoder import inference
from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.tools.parity_mesm import Comparison

TOLERANCE = 1e-4
"""Largest allowed max|a - b| / max|ref| in float32 on a CPU; the references' own rounding is up to 2.3e-6."""

Golden = Mapping[str, np.ndarray]
Outputs = Iterator[tuple[str, torch.Tensor]]

_SLICE = 64


@dataclass(frozen=True)
class Subject:
    """One extractor: how to build it from a golden file, and how to compute what the file lists."""

    name: str
    marker: str
    """A key that only this extractor's golden file has."""
    build: Callable[[Golden, Path], Any]
    outputs: Callable[[Golden, Any], Outputs]
    network: Callable[[Any], nn.Module]
    stages: Mapping[str, str | None] = field(default_factory=dict)
    """Our module of a stage, where it has another name than the reference's; None where we have none."""
    inner: Mapping[str, str] = field(default_factory=dict)
    """Our module whose whole output the file holds under a key."""
    arrange: Callable[[str, torch.Tensor], torch.Tensor] = lambda _stage, output: output
    """Bring a stage's output into the reference's order of axes."""


def noise_frames(frames: int, size: int, seed: int) -> np.ndarray:
    """Return (frames, size, size, 3) uint8: random cells of 16 x 16 pixels with fine noise upon them."""
    random = np.random.RandomState(seed)
    coarse = random.randint(0, 192, size=(frames, size // 16, size // 16, 3), dtype=np.int64)
    fine = random.randint(0, 64, size=(frames, size, size, 3), dtype=np.int64)
    return (coarse.repeat(16, axis=1).repeat(16, axis=2) + fine).astype(np.uint8)


def ramp_frames(frames: int, size: int) -> np.ndarray:
    """Return (frames, size, size, 3) uint8: slanted ramps that move and differ in every direction."""
    t, y, x, c = np.ogrid[:frames, :size, :size, :3]
    return ((y * (c + 1) + 2 * x * (3 - c) + 11 * t * (c + 1) + (t * t * x) // 64) // 3 % 256).astype(np.uint8)


def formula_state(golden: Golden) -> dict[str, torch.Tensor]:
    """Return the golden file's weights, computed from the reference's names and shapes of the parameters."""
    state = {}
    for line in golden["state_names"]:
        name, shape, dtype = str(line).split(" ")
        axes = tuple(int(size) for size in shape.strip("[]").split(",") if size)
        state[name] = formula_tensor(name, axes) if axes else torch.zeros((), dtype=getattr(torch, dtype))
    return state


def formula_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the weights of one parameter: random numbers seeded by its name, scaled by its kind."""
    random = np.random.RandomState(zlib.crc32(name.encode()) % 2**31)
    values = random.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        values *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
    elif name.endswith("running_var"):
        values = np.exp(np.float32(0.1) * values)
    elif name.endswith("weight"):
        values = 1 + np.float32(0.1) * values
    else:
        values = np.float32(0.1) * values
    return torch.from_numpy(values)


def golden_encoder(golden: Golden) -> Any:
    """Build the encoder that a golden file is about, with the formula's weights, through its converter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        safetensors.torch.save_file(formula_state(golden), path)
        return recognise(golden).build(golden, path)


def recognise(golden: Golden) -> Subject:
    """Return which extractor a golden file is about. Raises ValueError for another file."""
    for subject in SUBJECTS:
        if subject.marker in golden:
            return subject
    raise ValueError("it holds the outputs of none of the extractors")


def compare(golden: Golden, encoder: Any) -> list[Comparison]:
    """Compare an encoder with everything that a golden file holds."""
    subject = recognise(golden)
    seen: dict[str, torch.Tensor] = {}
    with _watched(subject, encoder, _listed(golden, subject), seen):
        rows = [relative(name, ours, golden[name]) for name, ours in subject.outputs(golden, encoder)]
    for name in sorted(seen):
        if name in subject.inner:
            rows.append(relative(name, seen[name], golden[name]))
        else:
            rows += _compare_stage(golden, name, seen[name])
    return rows


def _listed(golden: Golden, subject: Subject) -> dict[str, str]:
    """Return our module of every stage and inner output that a golden file lists."""
    names = sorted({key.split("/")[1] for key in golden if key.startswith("stage/")})
    found = {name: subject.stages.get(name, name) for name in names}
    return {name: module for name, module in found.items() if module is not None} | dict(subject.inner)


def check_file(path: Path) -> tuple[str, list[Comparison]]:
    """Compare everything that a golden file holds; returns the encoder's name and the comparisons."""
    with np.load(path, allow_pickle=False) as archive:
        golden = {name: archive[name] for name in archive.files}
    return recognise(golden).name, compare(golden, golden_encoder(golden))


@contextlib.contextmanager
def _watched(
    subject: Subject, encoder: Any, watched: Mapping[str, str], seen: dict[str, torch.Tensor]
) -> Iterator[None]:
    """Keep what the modules put out first: a golden file's stages belong to its first input."""
    network = subject.network(encoder)
    hooks = [
        network.get_submodule(module).register_forward_hook(_keeper(subject, name, seen))
        for name, module in watched.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _keeper(subject: Subject, stage: str, seen: dict[str, torch.Tensor]) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if stage not in seen:
            # A copy, because later layers may work in place.
            seen[stage] = subject.arrange(stage, output).clone()

    return keep


def _compare_stage(golden: Golden, stage: str, ours: torch.Tensor) -> list[Comparison]:
    shape = tuple(int(size) for size in golden[f"stage/{stage}/shape"])
    if tuple(ours.shape) != shape:
        return [Comparison(f"{stage} shape {tuple(ours.shape)} for {shape}", float("nan"), 0.0)]
    reference = golden[f"stage/{stage}/mean_std_absmax"]
    values = ours.double().flatten()
    moments = torch.stack([values.mean(), values.std(correction=0), values.abs().max()])
    return [
        relative(f"{stage} 64 values", every_nth(ours), golden[f"stage/{stage}/slice64"], reference[2]),
        relative(f"{stage} mean, std, max", moments, reference, reference[2]),
    ]


def every_nth(tensor: torch.Tensor) -> torch.Tensor:
    """Return 64 values of a tensor, flattened in C order, at i * (numel // 64)."""
    flat = tensor.flatten()
    return flat[torch.arange(_SLICE) * (flat.numel() // _SLICE)]


def relative(name: str, ours: torch.Tensor, reference: np.ndarray, scale: float | None = None) -> Comparison:
    """Compare a tensor by its largest difference, relative to `scale` or the reference's largest value."""
    expected = torch.from_numpy(np.asarray(reference)).double()
    if ours.shape != expected.shape:
        return Comparison(f"{name} shape {tuple(ours.shape)} for {tuple(expected.shape)}", float("nan"), 0.0)
    largest = float(expected.abs().max()) if scale is None else float(scale)
    return Comparison(name, float((ours.double() - expected).abs().max()) / (largest or 1.0), TOLERANCE)


def _clips(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames)[None]


def _build_slowfast(_golden: Golden, weights: Path) -> Any:
    return create_video_encoder("slowfast-8x8-r50", weights=str(weights))


def _slowfast_outputs(_golden: Golden, encoder: Any) -> Outputs:
    clip = _clips(noise_frames(32, 224, 11))
    yield "feature", encoder.encode(clip)
    yield "feature_ramp", encoder.encode(_clips(ramp_frames(32, 224)))
    yield "normalised_fast_slice", every_nth(encoder.normalise(clip))
    yield "slow_index", torch.tensor(encoder.slow_frames)


def _build_inception(_golden: Golden, weights: Path) -> Any:
    return create_video_encoder("i3d-inception", weights=str(weights), clip_len_s=16 / 24)


def _inception_outputs(_golden: Golden, encoder: Any) -> Outputs:
    clip = _clips(noise_frames(16, 224, 21))
    yield "feature", encoder.encode(clip)
    yield "feature_ramp_t16", encoder.encode(_clips(ramp_frames(16, 224)))
    yield "normalised_slice_t16", every_nth(encoder.normalise(clip))
    with inference(encoder.settings.device, "fp32"):
        pooled = encoder.network(encoder.normalise(clip))
        yield "logits_t16", encoder.network.logits(pooled)
        for name, frames, seed in (("feature_t24", 24, 22), ("feature_t21", 21, 23)):
            yield name, encoder.steps(encoder.normalise(_clips(noise_frames(frames, 224, seed))))[0]


def _build_c3d(_golden: Golden, weights: Path) -> Any:
    options = {"interval_frames": 16, "mean_cube": "channels"}
    encoder: Any = create_video_encoder("c3d", weights=str(weights), options=options)
    cube = np.random.RandomState(32).randint(80, 120, size=(16, 112, 112, 3), dtype=np.int64)
    encoder.mean_cube = torch.from_numpy(cube.astype(np.float32)).permute(3, 0, 1, 2)
    return encoder


def _c3d_outputs(_golden: Golden, encoder: Any) -> Outputs:
    clip = _clips(noise_frames(16, 112, 31))
    fc6 = encoder.encode(clip)
    yield "feature", fc6
    with inference(encoder.settings.device, "fp32"):
        fc7 = encoder.network.fc7(fc6).relu()
        yield "fc7_caffe", fc7
        yield "fc8_logits_caffe", encoder.network.fc8(fc7)


def _build_vgg(_golden: Golden, weights: Path) -> Any:
    return create_video_encoder("vgg16", weights=str(weights))


def _vgg_outputs(_golden: Golden, encoder: Any) -> Outputs:
    images = torch.from_numpy(noise_frames(2, 224, 41))[:, None]
    fc7 = encoder.encode(images)
    yield "feature", fc7
    yield "normalised_slice", every_nth(encoder.normalise(images))
    with inference(encoder.settings.device, "fp32"):
        yield "logits", encoder.network.classifier[6](fc7)


def _build_clip(_golden: Golden, weights: Path) -> Any:
    return create_video_encoder("clip", weights=str(weights))


def _clip_outputs(_golden: Golden, encoder: Any) -> Outputs:
    images = torch.from_numpy(noise_frames(2, 224, 51))[:, None]
    yield "feature", encoder.encode(images)
    yield "normalised_slice", every_nth(encoder.normalise(images))


def _arrange_clip(stage: str, output: torch.Tensor) -> torch.Tensor:
    if "resblocks" in stage:
        return output.transpose(0, 1)
    return output[:, 0] if stage == "visual.ln_post" else output


def _build_clip_text(_golden: Golden, weights: Path) -> Any:
    return create_text_encoder("clip-text", weights=str(weights))


def _clip_text_outputs(golden: Golden, encoder: Any) -> Outputs:
    ids = torch.from_numpy(golden["token_ids"])
    with inference(encoder.device, "fp32"):
        states, _ = encoder.states(ids)
    end = int(golden["valid_len"][0])
    yield "tokens_padding_sample_0", states[0, end : end + 2]
    encoded = encoder.encode([str(sentence) for sentence in golden["sentences"]])
    yield "pooled", torch.stack([torch.from_numpy(text.pooled) for text in encoded])
    yield "valid_len", torch.tensor([len(text.token_ids) for text in encoded])
    yield "token_ids", torch.stack([_padded(text.token_ids, ids.shape[1]) for text in encoded])
    for number, text in enumerate(encoded):
        yield f"tokens_{number}", torch.from_numpy(text.tokens)


def _padded(ids: np.ndarray, length: int) -> torch.Tensor:
    return torch.from_numpy(np.pad(ids, (0, length - len(ids))))


def _slowfast_stages() -> dict[str, str | None]:
    """Return our modules: the stem and stages of each pathway, and each fusion, which gives both pathways."""
    stages: dict[str, str | None] = {}
    for stage in range(1, 6):
        for pathway in range(2):
            stages[f"s{stage}.pathway{pathway}"] = f"blocks.{stage - 1}.multipathway_blocks.{pathway}"
            stages[f"s{stage}_fuse.pathway{pathway}"] = f"blocks.{stage - 1}.multipathway_fusion"
    return stages


def _arrange_slowfast(stage: str, output: Any) -> torch.Tensor:
    return output[int(stage[-1])] if "_fuse" in stage else output


SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "slowfast-8x8-r50",
        "slow_index",
        _build_slowfast,
        _slowfast_outputs,
        lambda encoder: encoder.network,
        _slowfast_stages(),
        arrange=_arrange_slowfast,
    ),
    Subject("i3d-inception", "feature_t16", _build_inception, _inception_outputs, lambda encoder: encoder.network),
    Subject(
        "c3d",
        "fc6_caffe",
        _build_c3d,
        _c3d_outputs,
        lambda encoder: encoder.network,
        # The file's `pool5` is another port's, with padding.
        {"pool5_caffe": "pool5", "pool5": None, "pool5_davide": None},
        {"fc6_caffe_pre_relu": "fc6"},
    ),
    Subject(
        "vgg16",
        "fc7_pre_relu",
        _build_vgg,
        _vgg_outputs,
        lambda encoder: encoder.network,
        inner={"fc6": "classifier.1", "fc7_pre_relu": "classifier.3"},
    ),
    Subject(
        "clip",
        "feature_wrong_gelu",
        _build_clip,
        _clip_outputs,
        lambda encoder: encoder.network,
        {
            "visual.conv1": "conv1",
            "visual.ln_pre": "ln_pre",
            "visual.resblocks.0": "transformer.resblocks.0",
            "visual.resblocks.11": "transformer.resblocks.11",
            "visual.ln_post": "ln_post",
        },
        arrange=_arrange_clip,
    ),
    Subject(
        "clip-text",
        "token_ids",
        _build_clip_text,
        _clip_text_outputs,
        lambda encoder: encoder.tower,
        {
            "text.resblocks.0(LND)": "transformer.resblocks.0",
            "text.resblocks.11(LND)": "transformer.resblocks.11",
        },
        arrange=_arrange_clip,
    ),
)
