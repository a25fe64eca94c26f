"""What encoders with a torch network share: of videos, running it on uint8 clips; of texts, batches of sentences."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import nn

from mesm.extractors.contracts import FramePlan, FrameTransform, ResizeMode, SamplingMode, TextFeatures, VideoInfo
from mesm.extractors.errors import EncoderError

Precision = Literal["fp32", "bf16", "fp16"]

TEXTS_PER_BATCH = 64
"""Sentences that go through a network together."""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class VideoSettings:
    """How a video encoder samples, resizes and computes."""

    clip_len_s: float
    sampling: SamplingMode = "clean"
    resize: ResizeMode = "device"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "fp32"
    deferred: bool = False
    """Build the network when the first clip is encoded, where the encoder can: kept features need none."""

    def __post_init__(self) -> None:
        """Raise EncoderError for values outside the types above."""
        if not self.clip_len_s > 0:
            raise EncoderError(f"clip_len_s is {self.clip_len_s}; expected seconds above 0")
        for setting, values in (("sampling", SamplingMode), ("resize", ResizeMode), ("precision", Precision)):
            if getattr(self, setting) not in get_args(values):
                raise EncoderError(
                    f"{setting} is {getattr(self, setting)!r}; expected one of {', '.join(get_args(values))}"
                )


def check_options(encoder: str, options: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raise EncoderError when `options` holds names that this encoder does not know."""
    known = sorted(allowed)
    unknown = sorted(set(options) - set(known))
    if unknown:
        expected = ", ".join(known) if known else "none"
        raise EncoderError(f"encoder {encoder} has no option {', '.join(unknown)}; its options: {expected}")


def require_clean(encoder: str, settings: VideoSettings) -> None:
    """Raise EncoderError for `parity` sampling where released features cannot be traced to frames."""
    if settings.sampling != "clean":
        raise EncoderError(
            f"encoder {encoder} has no {settings.sampling} sampling: which frames its released features used "
            "is not known; clip and slowfast-8x8-r50 have it, here take clean"
        )


@contextlib.contextmanager
def inference(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute without gradients in this precision; `fp32` means it, also where cuDNN would take TF32."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if precision != "fp32":
            stack.enter_context(torch.autocast(device.type, dtype=_AUTOCAST[precision]))
        elif device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        yield


class NetworkVideoEncoder(ABC):
    """A video encoder around one torch network; subclasses choose its frames and make features of them.

    Pixels are divided by 255, `mean` is subtracted and the rest divided by `std`, on the device, in float32.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __init__(
        self,
        name: str,
        network: nn.Module | Callable[[], nn.Module],
        settings: VideoSettings,
        *,
        dim: int,
        transform: FrameTransform,
        frames_per_row: int,
        spec: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.dim = dim
        self.settings = settings
        self.clip_len_s = settings.clip_len_s
        self.transform = transform
        self.frames_per_row = frames_per_row
        self._make_network = network
        self._spec = dict(spec)
        if isinstance(network, nn.Module):
            _ = self.network

    @cached_property
    def network(self) -> nn.Module:
        """The network, ready to encode; one that was not given but is to be made is made now."""
        made = self._make_network if isinstance(self._make_network, nn.Module) else self._make_network()
        return made.eval().requires_grad_(False).to(self.settings.device)

    @property
    def spec(self) -> Mapping[str, Any]:
        """Everything that changes a number of the features, JSON-serialisable."""
        return {
            "encoder": self.name,
            "dim": self.dim,
            "clip_len_s": self.clip_len_s,
            "frames_per_row": self.frames_per_row,
            "sampling": self.settings.sampling,
            "precision": self.settings.precision,
            "resize": self.transform.resize,
            "short_side": self.transform.short_side,
            "exact": list(self.transform.exact) if self.transform.exact else None,
            "crop": list(self.transform.crop),
            **({} if self.transform.smoothing == "bicubic" else {"smoothing": self.transform.smoothing}),
            "mean": list(self.mean),
            "std": list(self.std),
            **self._spec,
        }

    @abstractmethod
    def plan(self, info: VideoInfo) -> FramePlan:
        """Say which frames make each row of this video."""

    @abstractmethod
    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn normalised (B, 3, T, H, W) float32 clips on the device into (B, dim) features."""

    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        """Encode (B, T, H, W, 3) uint8 RGB clips, on any device, to (B, dim) float32 on the encoder's device.

        Raises EncoderError when the clips have another type or shape than this encoder's plan asks for.
        """
        self._check(clips)
        with inference(self.settings.device, self.settings.precision):
            return self.features(self.normalise(clips.to(self.settings.device, non_blocking=True))).float()

    def normalise(self, clips: torch.Tensor) -> torch.Tensor:
        """Turn (B, T, H, W, 3) uint8 clips into the network's (B, 3, T, H, W) float32 input."""
        pixels = clips.permute(0, 4, 1, 2, 3).float().div_(255)
        mean = pixels.new_tensor(self.mean).view(1, -1, 1, 1, 1)
        std = pixels.new_tensor(self.std).view(1, -1, 1, 1, 1)
        return pixels.sub_(mean).div_(std)

    def _check(self, clips: torch.Tensor) -> None:
        expected = (self.frames_per_row, *self.transform.crop, 3)
        if clips.dtype != torch.uint8 or tuple(clips.shape[1:]) != expected:
            raise EncoderError(
                f"encoder {self.name} got {clips.dtype} clips of shape {tuple(clips.shape)}; "
                f"expected uint8 of shape (batch, {', '.join(map(str, expected))})"
            )


class NetworkTextEncoder(ABC):
    """A text encoder around one torch network, which computes in float32; subclasses encode one batch of sentences."""

    name: str

    def __init__(self, device: torch.device, dim: int, spec: Mapping[str, Any]) -> None:
        self.device = device
        self.dim = dim
        self.spec = {"encoder": self.name, "dim": dim, "precision": "fp32", **spec}

    @abstractmethod
    def encode_batch(self, texts: list[str]) -> list[TextFeatures]:
        """Encode at most TEXTS_PER_BATCH sentences together."""

    def encode(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences; one that is longer than the network's context is cut."""
        features: list[TextFeatures] = []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            features += self.encode_batch(list(texts[start : start + TEXTS_PER_BATCH]))
        return features
