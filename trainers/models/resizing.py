"""How models bring feature maps and images to the size they need."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(images: Tensor, stride: int) -> Tensor:
    """Reflect images (n, c, h, w) at the right and the bottom up to the next height and width that ``stride`` divides.

    Zeros there would look like an edge to the deepest layers.
    """
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % stride, 0, -height % stride), mode="reflect")


def resize_as(features: Tensor, reference: Tensor) -> Tensor:
    """Bring features (n, c, h', w') bilinearly to the height and width of ``reference`` (n, any, h, w)."""
    return F.interpolate(features, size=reference.shape[-2:], mode="bilinear", align_corners=False)
