"""A picture as the question: its vector, by the encoder of the frames."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from mesm.extractors.contracts import VideoEncoder, VideoInfo
from mesm.extractors.decoding.resizing import apply_transform, scaled_size
from mesm.pipeline.config.errors import PipelineError

LARGEST_PIXELS = 100_000_000


def encode_picture(path: Path, encoder: VideoEncoder) -> np.ndarray:
    """Return the normalised vector (D,) float64 of a picture file, as if it were a frame.

    PipelineError when it is no picture, or too large a one.
    """
    picture = read_picture(path)
    height, width = picture.shape[:2]
    info = VideoInfo(
        path, width, height, Fraction(1), 1.0, np.zeros(1, np.int64), Fraction(1), "picture", "picture", 0, "pillow"
    )
    plan = encoder.plan(info)
    if plan.transform.resize == "swscale":
        size = scaled_size(height, width, plan.transform)
        picture = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))
    frame = apply_transform(torch.from_numpy(picture.copy())[None], plan.transform)
    clip = frame.expand(plan.frames.shape[1], -1, -1, -1)[None]
    vector: np.ndarray = encoder.encode(clip).double().cpu().numpy()[0]
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def read_picture(path: Path) -> np.ndarray:
    """Read a picture upright as (height, width, 3) uint8 RGB; PipelineError when it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > LARGEST_PIXELS:
                    raise PipelineError(
                        f"{path} has {image.width} x {image.height} pixels; at most {LARGEST_PIXELS} are read"
                    )
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: expected a picture, but there is no such file") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise PipelineError(f"{path} is no picture that can be read: {error}") from error
