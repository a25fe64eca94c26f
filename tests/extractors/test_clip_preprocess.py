from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from networks import TINY_CLIP
from PIL import Image
from shared import shared_path

from mesm.extractors.contracts import FrameTransform
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.resizing import apply_transform, scaled_size
from mesm.extractors.decoding.streams import PyavStream
from mesm.extractors.encoders.clip import ClipImageEncoder
from mesm.extractors.encoders.registry import create_video_encoder

# How far each way of scaling may be from Pillow's on this picture: mean absolute difference in levels of 255.
# Pillow is exact; torch's filter differs by rounding; ffmpeg's is another bicubic kernel, not antialiased alike.
LIMITS = {"pil": 0.0, "device": 0.01, "swscale": 0.3}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    path = shared_path("golden/clip_preprocess/franz-kafka.jpg")
    return np.array(Image.open(path).convert("RGB"))


def lossless_video(picture: np.ndarray, path: Path) -> Path:
    """Write a video of one frame that decodes to exactly this picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "bgr0"
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def scaled(picture: np.ndarray, transform: FrameTransform, folder: Path) -> torch.Tensor:
    """Bring the picture to the encoder's input size in the transform's way, (1, 224, 224, 3) uint8."""
    if transform.resize != "swscale":
        return apply_transform(picture[None], transform)
    height, width = scaled_size(*picture.shape[:2], transform)
    with PyavStream(probe(lossless_video(picture, folder / "picture.mkv"))) as stream:
        frame = next(found for _, found in stream.pictures() if found is not None)
        np.testing.assert_array_equal(frame.rgb(), picture)
        return apply_transform(frame.scaled(height, width)[None], transform)


@pytest.mark.parametrize("mode", LIMITS)
def test_scaling_against_openais_preprocessing(mode, picture, tmp_path, record_property):
    expected = np.load(shared_path("golden/clip_preprocess/expected_preprocessed_image.npy"))[0]
    encoder = create_video_encoder("clip", weights="untrained:0", options=TINY_CLIP)
    assert isinstance(encoder, ClipImageEncoder)
    transform = FrameTransform(mode, short_side=224, exact=None, crop=(224, 224))
    ours = encoder.normalise(scaled(picture, transform, tmp_path)[None])[0, :, 0]
    levels = (ours - torch.from_numpy(expected)).abs() * torch.tensor(encoder.std).view(3, 1, 1) * 255
    record_property("mean_absolute_difference", float(levels.mean()))
    print(f"{mode}: mean absolute difference {levels.mean():.4f} of 255, largest {levels.max():.1f}")
    if mode == "pil":
        assert levels.max() < 1e-4
    assert levels.mean() <= LIMITS[mode] + 1e-5
