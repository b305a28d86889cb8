"""How models bring feature maps and images to the size they need."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(images: Tensor, multiple: int, min_side: int = 1) -> Tensor:
    """Mirror images (n, c, h, w) at the right and the bottom up to the next size that ``multiple`` divides.

    Zeros there would look like an edge to the deepest layers. Where less than the missing margin is there to mirror,
    the last row or column is repeated.

    Args:
        images: to be padded.
        multiple: what height and width must be divisible by, in pixels.
        min_side: and not smaller than, in pixels.
    """
    height, width = (math.ceil(max(side, min_side) / multiple) * multiple - side for side in images.shape[-2:])
    return _extend(_extend(images, -1, width), -2, height)


def _extend(images: Tensor, dim: int, margin: int) -> Tensor:
    """Add ``margin`` rows (``dim`` -2) or columns (-1) behind the last."""
    if margin == 0:
        return images
    mode = "reflect" if margin < images.shape[dim] else "replicate"
    return F.pad(images, (0, margin, 0, 0) if dim == -1 else (0, 0, 0, margin), mode)


def resize_as(features: Tensor, reference: Tensor) -> Tensor:
    """Bring features (n, c, h', w') bilinearly to the height and width of ``reference`` (n, any, h, w)."""
    return F.interpolate(features, size=reference.shape[-2:], mode="bilinear", align_corners=False)
