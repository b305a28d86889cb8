"""UNet in the three published sizes, with the improvements asked for: attention gates, cheaper convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.config import ModelConfig
from trainers.models.attention import AttentionGate
from trainers.models.convolutions import build_convolution, build_inverted_bottleneck, initialise
from trainers.models.resizing import pad_to_multiple

WIDTHS: dict[str, tuple[int, ...]] = {
    "original": (1, 2, 4, 8, 16),
    "medium": (1, 2, 4, 8),
    "small": (1, 2, 8),
}
"""Channels of each encoder stage, the bottleneck last, as multiples of ``base_channels``."""


def double_convolution(kind: str, in_channels: int, out_channels: int, *, batch_norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions with bias, each followed by batch norm (if asked for) and ReLU.

    Inverted bottlenecks stand in for the whole: they have batch norm of their own, in the decoder too, and end
    without ReLU.
    """
    if kind == "inverted_bottleneck":
        return nn.Sequential(
            build_inverted_bottleneck(in_channels, out_channels), build_inverted_bottleneck(out_channels, out_channels)
        )
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        convolution = build_convolution(kind, channels, out_channels, bias=True)
        initialise(convolution)
        normalisation = [nn.BatchNorm2d(out_channels)] if batch_norm else []
        layers += [convolution, *normalisation, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder and decoder joined by concatenation at every scale (Ronneberger et al., arXiv 1505.04597).

    Unlike the paper: padded convolutions, so that the output has the size of the input, and batch norm in the
    encoder and the bottleneck, but not in the decoder. Weights start from the paper's N(0, 2 / fan_in).

    Attributes:
        gates: attention on the skip connections, the coarsest first, or none. As in the paper on attention the finest
            skip connection has no gate, for its features are too simple to be compared with the gating signal.
    """

    def __init__(self, widths: tuple[int, ...], num_classes: int, convolution: str, attention: bool) -> None:
        super().__init__()
        *encoder_widths, bottleneck = widths
        self.stride = 2 ** len(encoder_widths)
        self.encoder = nn.ModuleList()
        channels = 3
        for width in encoder_widths:
            self.encoder.append(double_convolution(convolution, channels, width, batch_norm=True))
            channels = width
        self.bottleneck = double_convolution(convolution, channels, bottleneck, batch_norm=True)
        self.upsamplers = nn.ModuleList()
        self.decoder = nn.ModuleList()
        channels = bottleneck
        for width in reversed(encoder_widths):
            self.upsamplers.append(nn.ConvTranspose2d(channels, width, 2, stride=2))
            self.decoder.append(double_convolution(convolution, 2 * width, width, batch_norm=False))
            channels = width
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        scales = pairwise(reversed(widths[1:])) if attention else ()
        self.gates = nn.ModuleList(AttentionGate(skip, gate) for gate, skip in scales)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, classes, h, w).

        Sides that are no multiple of the stride are padded by :func:`pad_to_multiple`, and the logits cut back.
        """
        height, width = images.shape[-2:]
        x = pad_to_multiple(images, self.stride)
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for index, (upsample, stage) in enumerate(zip(self.upsamplers, self.decoder, strict=True)):
            skip = skips.pop()
            if index < len(self.gates):
                skip = self.gates[index](skip, x)
            x = stage(torch.cat((skip, upsample(x)), dim=1))
        logits: Tensor = self.classifier(x)
        return logits[..., :height, :width]


def build_unet(config: ModelConfig, num_classes: int) -> UNet:
    """The UNet of ``config.size``, its stages scaled by ``config.base_channels``."""
    widths = tuple(config.base_channels * multiple for multiple in WIDTHS[config.size])
    return UNet(widths, num_classes, config.convolution, config.attention)
