"""PSPNet: a backbone, means over ever finer parts of the image beside its features, bilinear upsampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from trainers.config import ModelConfig
from trainers.models.backbones import Encoder, build_encoder
from trainers.models.resizing import resize_as

BINS = (1, 2, 3, 6)
"""Parts along each side of the feature map that are averaged, one entry a branch."""


class PyramidPooling(nn.Module):
    """Features beside their means over 1, 4, 9 and 36 parts of the map (Zhao et al., arXiv 1612.01105, section 3.2).

    Each branch: mean, 1x1 convolution to a quarter of the channels, batch norm, ReLU, bilinear upsampling. Parts
    overlap where the map has fewer pixels a side than there are parts. The coarsest branch normalises over one value
    per image: training needs at least two images a batch.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        branch_channels = in_channels // len(BINS)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), Conv2dNormActivation(in_channels, branch_channels, 1))
            for size in BINS
        )
        self.out_channels = in_channels + len(BINS) * branch_channels

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h, w)."""
        means = [resize_as(branch(features), features) for branch in self.branches]
        return torch.cat((features, *means), dim=1)


class PSPNet(nn.Module):
    """Pyramid scene parsing network (Zhao et al., arXiv 1612.01105) over the last feature map of any encoder.

    Followed: bins, a quarter of the channels a branch, means joined with the features, 3x3 to 512. Unlike the paper:
    any encoder and output stride (theirs is 8), and no auxiliary loss on a middle stage, so that all architectures
    train alike. Batch norm in the branches and dropout 0.1 are not in the text of the paper.
    """

    def __init__(self, encoder: Encoder, channels: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.pyramid = PyramidPooling(encoder.out_channels[-1])
        self.head = nn.Sequential(
            Conv2dNormActivation(self.pyramid.out_channels, channels, 3),
            nn.Dropout(0.1),
            nn.Conv2d(channels, num_classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, classes, h, w)."""
        return resize_as(self.head(self.pyramid(self.encoder(images)[-1])), images)


def build_pspnet(config: ModelConfig, num_classes: int) -> PSPNet:
    """The PSPNet that ``config`` describes."""
    encoder = build_encoder(config.backbone, config.output_stride, config.weights)
    return PSPNet(encoder, config.decoder_width, num_classes)
