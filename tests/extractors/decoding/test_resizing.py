"""Scaling and cropping: sizes, offsets, and that each way of scaling is the one it claims to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from media import X264, ffmpeg
from PIL import Image

from mesm.extractors.contracts import FrameTransform, ResizeMode
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.resizing import apply_transform, center_crop, scaled, scaled_in_steps, scaled_size
from mesm.extractors.decoding.streams import PyavStream
from mesm.extractors.errors import EncoderError


def clip_transform(mode: ResizeMode) -> FrameTransform:
    return FrameTransform(mode, short_side=224, exact=None, crop=(224, 224))


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(3, 90, 160, 3) uint8: smooth shapes with some noise."""
    y, x = np.mgrid[0:90, 0:160]
    waves = [np.sin(x / (5 + k)) * np.cos(y / (9 - k)) for k in range(9)]
    pictures = 127 + 90 * np.stack(waves, axis=-1).reshape(90, 160, 3, 3).transpose(2, 0, 1, 3)
    noise = np.random.default_rng(0).normal(0, 8, pictures.shape)
    return (pictures + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(360, 640, (224, 398)), (720, 1280, (224, 398)), (640, 360, (398, 224)), (2, 3, (224, 336))],
)
def test_short_side_rule(height: int, width: int, expected: tuple[int, int]) -> None:
    assert scaled_size(height, width, clip_transform("swscale")) == expected


def test_exact_size_ignores_the_aspect() -> None:
    assert scaled_size(360, 640, FrameTransform("device", None, (128, 171), (112, 112))) == (128, 171)
    assert scaled_size(360, 640, FrameTransform("none", None, None, (300, 300))) == (360, 640)


def test_crop_starts_at_half_the_rest_rounded_down() -> None:
    columns = torch.arange(398).expand(1, 224, 398)[..., None].expand(1, 224, 398, 3)
    assert center_crop(columns, (224, 224))[0, 0, 0, 0] == 87
    rows = torch.arange(171)[:, None].expand(1, 171, 128)[..., None].expand(1, 171, 128, 3)
    assert center_crop(rows, (112, 112))[0, 0, 0, 0] == 29


@pytest.mark.parametrize("shape", [(90, 160), (160, 90), (160, 161), (300, 200), (37, 41)])
@pytest.mark.parametrize("count", [1, 3])
def test_cutting_between_the_steps_of_scaling_changes_no_pixel(shape: tuple[int, int], count: int) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (count, *shape, 3), dtype=np.uint8)
    transform = FrameTransform("device", 112, None, (112, 100))
    size = scaled_size(*shape, transform)
    whole = scaled(torch.from_numpy(frames).permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
    assert torch.equal(apply_transform(frames, transform), center_crop(whole, transform.crop))
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    in_steps = scaled_in_steps(images, (shape[0], size[1]))
    assert torch.equal(scaled_in_steps(in_steps, size), scaled_in_steps(images, size))


@pytest.mark.parametrize(
    "transform",
    [
        FrameTransform("none", None, None, (100, 50)),
        FrameTransform("device", 100, None, (112, 100)),
        FrameTransform("pil", None, (50, 50), (64, 50)),
    ],
)
def test_crop_that_does_not_fit_is_an_error(transform: FrameTransform) -> None:
    with pytest.raises(EncoderError, match="does not fit"):
        scaled_size(90, 160, transform)


def test_transform_without_a_size_is_an_error() -> None:
    with pytest.raises(EncoderError, match="short_side or exact"):
        scaled_size(90, 160, FrameTransform("device", None, None, (50, 50)))


def test_pil_mode_is_pillow_bit_for_bit(frames: np.ndarray) -> None:
    ours = apply_transform(frames, clip_transform("pil")).numpy()
    for frame, result in zip(frames, ours, strict=True):
        image = Image.fromarray(frame).resize((398, 224), Image.Resampling.BICUBIC).crop((87, 0, 311, 224))
        np.testing.assert_array_equal(result, np.asarray(image))


def assert_nearly_equal(ours: torch.Tensor, expected: torch.Tensor) -> None:
    difference = (ours.int() - expected.int()).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < 0.01


def test_device_mode_is_nearly_pillow(frames: np.ndarray) -> None:
    assert_nearly_equal(
        apply_transform(frames, clip_transform("device")), apply_transform(frames, clip_transform("pil"))
    )


def test_accelerators_scale_nearly_as_the_processor_does(frames: np.ndarray) -> None:
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for size in ((224, 398), (45, 80), (128, 60)):
        assert_nearly_equal(scaled_in_steps(images, size), scaled(images, size))


@pytest.mark.parametrize("mode", ["device", "pil"])
def test_a_frame_is_scaled_alike_in_any_company(mode: ResizeMode, frames: np.ndarray) -> None:
    together = apply_transform(frames, clip_transform(mode))
    alone = torch.cat([apply_transform(frame[None], clip_transform(mode)) for frame in frames])
    assert torch.equal(together, alone)


def test_frames_of_the_right_size_are_only_cut(frames: np.ndarray) -> None:
    for mode in ("device", "pil", "none", "swscale"):
        transform = FrameTransform(mode, 90, None, (80, 100))
        np.testing.assert_array_equal(apply_transform(frames, transform), frames[:, 5:85, 30:130])


@pytest.mark.parametrize("source", ["yuv420p", "yuv420p10le", "yuv444p"])
def test_swscale_mode_is_ffmpegs_scale_filter_bit_for_bit(source: str, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    pattern = ("-f", "lavfi", "-i", "testsrc2=s=322x182:r=5:d=1")
    ffmpeg(*pattern, *X264[:-4], "-pix_fmt", source, str(path))
    graph = "scale=396:224,crop=224:224:86:0"
    raw = ffmpeg("-i", str(path), "-vf", graph, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    expected = np.frombuffer(raw, np.uint8).reshape(-1, 224, 224, 3)
    info = probe(path)
    size = scaled_size(info.height, info.width, clip_transform("swscale"))
    with PyavStream(info) as stream:
        pictures = [picture.scaled(*size) for _, picture in stream.pictures() if picture is not None]
    ours = apply_transform(np.stack(pictures), clip_transform("swscale"))
    np.testing.assert_array_equal(ours, expected)
