"""ResUNet: a UNet of residual units."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from trainers.config import ModelConfig
from trainers.models.convolutions import initialise
from trainers.models.resizing import pad_to_multiple, resize_as

WIDTHS = (1, 2, 4, 8)
"""Channels of each encoder stage, the bridge last, as multiples of ``base_channels``."""


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, batch norm and ReLU before each, beside a 1x1 convolution to the same shape."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, first: bool = False) -> None:
        """``first`` leaves out the batch norm and ReLU that would change the image itself."""
        super().__init__()
        activation = [] if first else [nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True)]
        self.residual = nn.Sequential(
            *activation,
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        initialise(self.residual)
        nn.init.kaiming_normal_(self.shortcut.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, ceil(h / stride), ceil(w / stride))."""
        out: Tensor = self.residual(x) + self.shortcut(x)
        return out


class ResUNet(nn.Module):
    """Deep residual U-Net (Zhang et al., arXiv 1711.10684): three stages, a bridge, three stages.

    Strided convolutions go down, bilinear upsampling and concatenation go up. Unlike the paper the 1x1 classifier
    gives logits of any number of classes, without a sigmoid, and where shapes change, and so in every unit, the
    shortcut is a 1x1 convolution; the paper's 7.8 M parameters count none.
    """

    def __init__(self, widths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.encoder = nn.ModuleList([ResidualUnit(3, widths[0], first=True)])
        for finer, coarser in pairwise(widths):
            self.encoder.append(ResidualUnit(finer, coarser, stride=2))
        self.decoder = nn.ModuleList()
        for coarser, finer in pairwise(reversed(widths)):
            self.decoder.append(ResidualUnit(coarser + finer, finer))
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, classes, h, w), padded and cut back as in UNet."""
        height, width = images.shape[-2:]
        x = pad_to_multiple(images, self.stride)
        skips: list[Tensor] = []
        for unit in self.encoder:
            x = unit(x)
            skips.append(x)
        skips.pop()  # the bridge
        for unit in self.decoder:
            skip = skips.pop()
            x = unit(torch.cat((skip, resize_as(x, skip)), dim=1))
        logits: Tensor = self.classifier(x)
        return logits[..., :height, :width]


def build_resunet(config: ModelConfig, num_classes: int) -> ResUNet:
    """The ResUNet whose stages are scaled by ``config.base_channels``; 64 is the published width."""
    return ResUNet(tuple(config.base_channels * multiple for multiple in WIDTHS), num_classes)
