"""Bring decoded frames to an encoder's input size: scale, then crop at the centre, uint8 in and out.

Four ways to scale, which give different numbers and so belong to an encoder's `spec`:

* `device`: torch's antialiased bicubic filter, on whatever device the frames are; nearly Pillow's numbers.
* `swscale`: ffmpeg's bicubic filter, straight from the coded colours; as the released CLIP and SlowFast
  features were made. It happens while decoding (`Picture.scaled`), so that here only the crop is left.
* `pil`: Pillow's bicubic filter, bit for bit; the reference preprocessing of OpenAI's CLIP.
* `none`: no scaling.

The shorter side becomes `short_side`, the longer one int(long * short_side / short), and the crop starts at
int((side - crop) / 2): the arithmetic of HERO_Video_Feature_Extractor. Where a rounded crop offset differs
from torchvision's, which rounds half to even, HERO's is taken.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from mesm.extractors.contracts import FrameTransform, Smoothing
from mesm.extractors.errors import EncoderError


def scaled_size(height: int, width: int, transform: FrameTransform) -> tuple[int, int]:
    """Return the (height, width) of a frame after scaling and before the crop.

    Raises EncoderError when the transform names no size, or when the crop is larger than what it is cut from.
    """
    if transform.resize == "none":
        size = (height, width)
    elif transform.exact is not None:
        size = transform.exact
    elif transform.short_side is not None:
        size = _short_side_size(height, width, transform.short_side)
    else:
        raise EncoderError(f"a transform with resize={transform.resize!r} needs short_side or exact")
    if size[0] < transform.crop[0] or size[1] < transform.crop[1]:
        raise EncoderError(f"a crop of {transform.crop} (height, width) does not fit into frames of {size}")
    return size


def apply_transform(frames: torch.Tensor | np.ndarray, transform: FrameTransform) -> torch.Tensor:
    """Scale and crop (n, H, W, 3) uint8 frames to (n, h, w, 3) uint8, on the device they are on.

    For `swscale` the frames must already have the size that `scaled_size` gives for the video's own.
    """
    # numpy's stride of an axis of length 1 may be anything, by which torch would take one frame for planes of colour.
    tensor = torch.from_numpy(frames.ravel()).view(frames.shape) if isinstance(frames, np.ndarray) else frames
    height, width = tensor.shape[1:3]
    if transform.resize == "swscale":
        return center_crop(tensor, transform.crop)
    size = scaled_size(height, width, transform)
    if size != (height, width):
        if transform.resize == "pil":
            tensor = _scale_pil(tensor, size, transform.smoothing)
        else:
            # The width is scaled before the height: what the crop leaves out beside needs no second step.
            images = scaled(tensor.permute(0, 3, 1, 2), (height, size[1]), transform.smoothing)
            left = (size[1] - transform.crop[1]) // 2
            images = images[..., left : left + transform.crop[1]]
            images = scaled(images, (size[0], transform.crop[1]), transform.smoothing)
            tensor = images.permute(0, 2, 3, 1)
    return center_crop(tensor, transform.crop)


def center_crop(frames: torch.Tensor, crop: tuple[int, int]) -> torch.Tensor:
    """Cut (n, H, W, 3) frames to the (height, width) at their centre, as a view."""
    top, left = ((side - cut) // 2 for side, cut in zip(frames.shape[1:3], crop, strict=True))
    return frames[:, top : top + crop[0], left : left + crop[1]]


def _short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    if height <= width:
        return short_side, width * short_side // height
    return height * short_side // width, short_side


def scaled(images: torch.Tensor, size: tuple[int, int], smoothing: Smoothing = "bicubic") -> torch.Tensor:
    """Scale (n, 3, H, W) uint8 images to (n, 3, h, w) uint8 by torch's antialiased filter.

    The processor's filter rounds to uint8 after scaling the width and again after the height. Accelerators have no
    filter for uint8, so `scaled_in_steps` does the same there.
    """
    if images.device.type == "cpu":
        return torch.nn.functional.interpolate(images, size=size, mode=smoothing, antialias=True)
    return scaled_in_steps(images, size, smoothing)


def scaled_in_steps(images: torch.Tensor, size: tuple[int, int], smoothing: Smoothing = "bicubic") -> torch.Tensor:
    """Do what `scaled` does, in float32: under 1 % of the values differ, by 1 or at most 2."""
    values = images.float()
    for step in ((images.shape[2], size[1]), size):
        if step == tuple(values.shape[2:]):
            continue
        values = torch.nn.functional.interpolate(values, size=step, mode=smoothing, antialias=True)
        values = values.round().clamp(0, 255)
    return values.to(torch.uint8)


def _scale_pil(frames: torch.Tensor, size: tuple[int, int], smoothing: Smoothing) -> torch.Tensor:
    height, width = size
    images = (Image.fromarray(frame) for frame in frames.cpu().numpy())
    scaled = [np.asarray(image.resize((width, height), Image.Resampling[smoothing.upper()])) for image in images]
    return torch.from_numpy(np.stack(scaled)).to(frames.device)
