"""DeepLab: a backbone, atrous context, perhaps finer features, a small head, bilinear upsampling to the input size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from trainers.config import ModelConfig
from trainers.models.aspp import build_context
from trainers.models.backbones import Encoder, build_encoder
from trainers.models.convolutions import build_convolution
from trainers.models.resizing import resize_as

SKIP_STAGE = 1
"""Stage of the encoder whose features, of stride 4, the skip connection joins."""
SKIP_CHANNELS = 48
"""What they are projected to, lest they outweigh the context (Chen et al., arXiv 1802.02611, section 4.1)."""


class DeepLab(nn.Module):
    """DeepLabV3 (Chen et al., arXiv 1706.05587) over the last feature map of any encoder.

    With ``skip`` it is DeepLabV3+ (Chen et al., arXiv 1802.02611): the context, brought to stride 4, is joined with
    the projected features of that stride. Unlike there one 3x3 convolution follows and not two, so that with and
    without differ in nothing but what is joined.
    """

    def __init__(self, encoder: Encoder, context: nn.Module, head: nn.Module, skip: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.context = context
        self.head = head
        self.skip = skip

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, classes, h, w)."""
        features = self.encoder(images)
        x = self.context(features[-1])
        if self.skip is not None:
            fine = self.skip(features[SKIP_STAGE])
            x = torch.cat((fine, resize_as(x, fine)), dim=1)
        return resize_as(self.head(x), images)


def build_head(in_channels: int, channels: int, num_classes: int, convolution: str) -> nn.Sequential:
    """Map (n, in_channels, h, w) to logits (n, classes, h, w) by a 3x3 convolution and a 1x1 classifier."""
    return nn.Sequential(
        build_convolution(convolution, in_channels, channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, num_classes, 1),
    )


def build_deeplab(config: ModelConfig, num_classes: int) -> DeepLab:
    """The DeepLab that ``config`` describes, with or without ASPP and skip connection."""
    convolution = "separable" if config.separable else "standard"
    encoder = build_encoder(config.backbone, config.output_stride, config.weights)
    channels = config.decoder_width
    rates = config.aspp_rates if config.aspp else None
    context = build_context(encoder.out_channels[-1], channels, rates, convolution)
    head_channels = channels + SKIP_CHANNELS if config.skip else channels
    head = build_head(head_channels, channels, num_classes, convolution)
    skip = Conv2dNormActivation(encoder.out_channels[SKIP_STAGE], SKIP_CHANNELS, 1) if config.skip else None
    return DeepLab(encoder, context, head, skip)
