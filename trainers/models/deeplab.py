"""DeepLab: a backbone, atrous context, a small head, bilinear upsampling to the input size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.config import ModelConfig
from trainers.models.aspp import build_context
from trainers.models.backbones import Encoder, build_encoder


class DeepLab(nn.Module):
    """DeepLabV3 (Chen et al., arXiv 1706.05587) over the last feature map of any encoder."""

    def __init__(self, encoder: Encoder, context: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.context = context
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, classes, h, w)."""
        logits = self.head(self.context(self.encoder(images)[-1]))
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def build_deeplab(config: ModelConfig, num_classes: int) -> DeepLab:
    """The DeepLab that ``config`` describes, with or without ASPP."""
    encoder = build_encoder(config.backbone, config.output_stride, config.weights)
    rates = config.aspp_rates if config.aspp else None
    context = build_context(encoder.out_channels[-1], config.decoder_width, rates)
    return DeepLab(encoder, context, config.decoder_width, num_classes)
