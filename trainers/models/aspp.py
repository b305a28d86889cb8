"""What lies between a backbone and a segmentation head: context at several scales, or a plain projection."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from trainers.models.convolutions import build_convolution


def build_context(
    in_channels: int, out_channels: int, rates: Sequence[int] | None, convolution: str = "standard"
) -> nn.Module:
    """Map features (n, in_channels, h, w) to (n, out_channels, h, w).

    Args:
        in_channels: channels of the backbone's last feature map.
        out_channels: channels handed to the head.
        rates: dilations of the 3x3 branches of atrous spatial pyramid pooling (Chen et al., arXiv 1706.05587);
            None projects with a single 1x1 convolution instead, so that with and without differ in nothing else.
        convolution: what the 3x3 convolutions are, ``standard`` or ``separable`` (arXiv 1802.02611, section 3.1).

    The image-pooling branch of ASPP normalises over one value per image: training needs at least two images a
    batch, which the batch iterator guarantees.
    """
    if rates is not None:
        aspp: nn.Module = ASPP(in_channels, rates, out_channels)
        if convolution != "standard":
            for branch, rate in enumerate(rates, start=1):  # branch 0 is the 1x1 convolution
                atrous = build_convolution(convolution, in_channels, out_channels, dilation=rate, bias=False)
                aspp.set_submodule(f"convs.{branch}.0", atrous)
        return aspp
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
    )
