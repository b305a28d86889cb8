"""Segmentation models by name: images (n, 3, h, w) in, logits (n, classes, h, w) out, never probabilities."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainers.config import ModelConfig
from trainers.models.backbones import read_weights
from trainers.models.deeplab import build_deeplab
from trainers.models.unet import build_unet

ARCHITECTURES: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "deeplab": build_deeplab,
    "unet": build_unet,
}
"""Builder of each architecture that ``model.architecture`` may name."""


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """Build the model that ``config`` describes, for images of any size from 32 x 32 pixels.

    The weights depend only on torch's random state (and on ``config.weights``): seed it before.

    Raises:
        ConfigError: ``config.weights`` cannot be had or does not fit; see :func:`check_weights`.
    """
    return ARCHITECTURES[config.architecture](config, num_classes)


def check_weights(config: ModelConfig) -> None:
    """Make sure, before anything costs time, that the initial weights are at hand and fit.

    Raises:
        ConfigError: ``imagenet`` weights are neither in torch's hub folder nor downloadable, or the named file
            does not exist, cannot be read or belongs to another backbone.
    """
    if config.architecture == "deeplab" and config.weights != "none":
        read_weights(config.backbone, config.weights)
