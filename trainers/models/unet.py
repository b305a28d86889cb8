"""UNet in the three published sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.config import ModelConfig

WIDTHS: dict[str, tuple[int, ...]] = {
    "original": (1, 2, 4, 8, 16),
    "medium": (1, 2, 4, 8),
    "small": (1, 2, 8),
}
"""Channels of each encoder stage, the bottleneck last, as multiples of ``base_channels``."""


def double_convolution(in_channels: int, out_channels: int, batch_norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions with bias, each followed by batch norm (if asked for) and ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        convolution = nn.Conv2d(channels, out_channels, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        normalisation = [nn.BatchNorm2d(out_channels)] if batch_norm else []
        layers += [convolution, *normalisation, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder and decoder joined by concatenation at every scale (Ronneberger et al., arXiv 1505.04597).

    Unlike the paper: padded convolutions, so that the output has the size of the input, and batch norm in the
    encoder and the bottleneck, but not in the decoder. Weights start from the paper's N(0, 2 / fan_in).
    """

    def __init__(self, widths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        *encoder_widths, bottleneck = widths
        self.stride = 2 ** len(encoder_widths)
        self.encoder = nn.ModuleList()
        channels = 3
        for width in encoder_widths:
            self.encoder.append(double_convolution(channels, width, batch_norm=True))
            channels = width
        self.bottleneck = double_convolution(channels, bottleneck, batch_norm=True)
        self.upsamplers = nn.ModuleList()
        self.decoder = nn.ModuleList()
        channels = bottleneck
        for width in reversed(encoder_widths):
            self.upsamplers.append(nn.ConvTranspose2d(channels, width, 2, stride=2))
            self.decoder.append(double_convolution(2 * width, width, batch_norm=False))
            channels = width
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, classes, h, w).

        Sides that are no multiple of the stride are reflected at the right and the bottom up to the next one,
        and the logits cut back: zeros there would look like an edge to the deepest layers.
        """
        height, width = images.shape[-2:]
        x = F.pad(images, (0, -width % self.stride, 0, -height % self.stride), mode="reflect")
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for upsample, stage in zip(self.upsamplers, self.decoder, strict=True):
            x = stage(torch.cat((skips.pop(), upsample(x)), dim=1))
        logits: Tensor = self.classifier(x)
        return logits[..., :height, :width]


def build_unet(config: ModelConfig, num_classes: int) -> UNet:
    """The UNet of ``config.size``, its stages scaled by ``config.base_channels``."""
    return UNet(tuple(config.base_channels * multiple for multiple in WIDTHS[config.size]), num_classes)
