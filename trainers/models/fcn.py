"""FCN: a backbone, the former fully connected layers as convolutions, bilinear upsampling to the input size."""

from __future__ import annotations

from torch import Tensor, nn

from trainers.config import ModelConfig
from trainers.models.backbones import Encoder, build_encoder
from trainers.models.convolutions import initialise
from trainers.models.resizing import resize_as


class FCN(nn.Module):
    """Fully convolutional network (Long et al., arXiv 1411.4038) over the last feature map of any encoder.

    Unlike the paper: padded convolutions, so that small images do, one resolution (their FCN-32s, without the sums
    of finer scores), and fixed bilinear weights up.
    """

    def __init__(self, encoder: Encoder, channels: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Conv2d(encoder.out_channels[-1], channels, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )
        initialise(self.head)  # without batch norm, torch's smaller weights would let the signal fade
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to logits (n, classes, h, w)."""
        return resize_as(self.classifier(self.head(self.encoder(images)[-1])), images)


def build_fcn(config: ModelConfig, num_classes: int) -> FCN:
    """The FCN that ``config`` describes; the published one has ``backbone=vgg16_block4`` and stride 16."""
    encoder = build_encoder(config.backbone, config.output_stride, config.weights)
    return FCN(encoder, config.decoder_width, num_classes)
