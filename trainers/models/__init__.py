"""Segmentation models by name: images (n, 3, h, w) in, logits (n, classes, h, w) out, never probabilities."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainers.choices import SMP_PREFIX, fields_read
from trainers.config import ModelConfig
from trainers.models.backbones import read_weights
from trainers.models.deeplab import build_deeplab
from trainers.models.fcn import build_fcn
from trainers.models.pspnet import build_pspnet
from trainers.models.resunet import build_resunet
from trainers.models.smp import build_smp, check_smp
from trainers.models.unet import build_unet

ARCHITECTURES: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "deeplab": build_deeplab,
    "fcn": build_fcn,
    "pspnet": build_pspnet,
    "resunet": build_resunet,
    "unet": build_unet,
}
"""Builder of each architecture of ours that ``model.architecture`` may name."""


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """Build the model that ``config`` describes, for images of any size from 32 x 32 pixels.

    The weights depend only on torch's random state (and on ``config.weights``): seed it before.

    Raises:
        ConfigError: ``config.weights`` cannot be had or does not fit; see :func:`check_model`.
    """
    if config.architecture.startswith(SMP_PREFIX):
        return build_smp(config, num_classes)
    return ARCHITECTURES[config.architecture](config, num_classes)


def check_model(config: ModelConfig) -> None:
    """Make sure, before anything costs time, that the model can be built and its initial weights are at hand and fit.

    Raises:
        ConfigError: ``imagenet`` weights are neither in the library's cache folder nor downloadable, the named file
            does not exist, cannot be read or belongs to another backbone, or segmentation_models.pytorch is needed
            and not installed or refuses the encoder.
    """
    if config.architecture.startswith(SMP_PREFIX):
        check_smp(config)
    elif "weights" in fields_read(config.architecture) and config.weights != "none":
        read_weights(config.backbone, config.weights)
