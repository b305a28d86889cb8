"""Losses over logits, by name, with or without class weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.config import LossConfig
from trainers.datasets import IGNORE_INDEX
from trainers.settings import ConfigError


class CrossEntropy(nn.Module):
    """Cross-entropy of the softmax of logits, averaged over the labelled pixels with their class weights.

    A batch without a labelled pixel costs exactly 0 and has zero gradient, where torch's own mean is NaN.
    A NaN logit gives a NaN loss.
    """

    class_weights: Tensor
    pixel_weights: Tensor

    def __init__(self, class_weights: Tensor) -> None:
        """Take the weight of each class, shape (classes,)."""
        super().__init__()
        pixel_weights = torch.zeros(IGNORE_INDEX + 1)
        pixel_weights[: len(class_weights)] = class_weights
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("pixel_weights", pixel_weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Map logits (n, classes, h, w) and int64 labels (n, h, w), 255 ignored, to a float32 scalar."""
        weights = self.class_weights
        total = F.cross_entropy(logits.float(), target, weights, ignore_index=IGNORE_INDEX, reduction="sum")
        mass = self.pixel_weights[target].sum()
        return total / torch.where(mass > 0, mass, 1.0)


def inverse_frequency(class_pixels: NDArray[np.int64]) -> Tensor:
    """Weights proportional to one over the classes' pixels, with mean 1 over the classes present, 0 for the absent.

    Args:
        class_pixels: training pixels of each class, shape (classes,).

    Raises:
        ConfigError: no class has a pixel.
    """
    present = class_pixels > 0
    if not present.any():
        raise ConfigError("loss.class_weights=inverse_frequency needs labelled training pixels; there are none.")
    weights = np.zeros(len(class_pixels))
    weights[present] = 1 / class_pixels[present]
    weights[present] /= weights[present].mean()
    return torch.from_numpy(weights).float()


def build_loss(config: LossConfig, class_pixels: NDArray[np.int64]) -> nn.Module:
    """Build the loss that ``config`` describes.

    Args:
        config: name and class weighting.
        class_pixels: training pixels of each class, shape (classes,).

    Raises:
        ConfigError: weights by frequency are asked for, and no training pixel has a label.
    """
    if config.class_weights == "inverse_frequency":
        return CrossEntropy(inverse_frequency(class_pixels))
    return CrossEntropy(torch.ones(len(class_pixels)))
