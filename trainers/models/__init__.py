"""Segmentation models by name: images (n, 3, h, w) in, logits (n, classes, h, w) out, never probabilities."""

from __future__ import annotations

from pkgutil import resolve_name

from torch import nn

from trainers.choices import SMP_PREFIX, fields_read
from trainers.config import ModelConfig

BUILDERS = {
    "deeplab": "trainers.models.deeplab:build_deeplab",
    "fcn": "trainers.models.fcn:build_fcn",
    "pspnet": "trainers.models.pspnet:build_pspnet",
    "resunet": "trainers.models.resunet:build_resunet",
    "unet": "trainers.models.unet:build_unet",
}
"""Where the builder of each architecture of ours is. It is imported when needed: torchvision takes a second, which each
process of a search would pay, and most UNets do without."""


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """Build the model that ``config`` describes, for images of any size from 32 x 32 pixels.

    The weights depend only on torch's random state (and on ``config.weights``): seed it before.

    Raises:
        ConfigError: ``config.weights`` cannot be had or does not fit; see :func:`check_model`.
    """
    if config.architecture.startswith(SMP_PREFIX):
        from trainers.models.smp import build_smp  # noqa: PLC0415 - see BUILDERS

        return build_smp(config, num_classes)
    model: nn.Module = resolve_name(BUILDERS[config.architecture])(config, num_classes)
    return model


def check_model(config: ModelConfig) -> None:
    """Make sure, before anything costs time, that the model can be built and its initial weights are at hand and fit.

    Raises:
        ConfigError: ``imagenet`` weights are neither in the library's cache folder nor downloadable, the named file
            does not exist, cannot be read or belongs to another backbone, or segmentation_models.pytorch is needed
            and not installed or refuses the encoder.
    """
    if config.architecture.startswith(SMP_PREFIX):
        from trainers.models.smp import check_smp  # noqa: PLC0415 - see BUILDERS

        check_smp(config)
    elif "weights" in fields_read(config.architecture) and config.weights != "none":
        from trainers.models.backbones import read_weights  # noqa: PLC0415 - see BUILDERS

        read_weights(config.backbone, config.weights)
