"""How much each class counts in a loss, from how often training shows it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainers.config import LossConfig
from trainers.datasets import ClassCounts
from trainers.settings import ConfigError


def class_weights(config: LossConfig, counts: ClassCounts) -> NDArray[np.float64]:
    """Weight of each class, shape (classes,): raised to ``weight_exponent``, then scaled to mean 1 over the classes
    that training shows; 0 for those it does not show. ``class_weights=none`` is 1 for every class.

    With n pixels of a class, the weights before exponent and scale are

    - ``inverse_frequency``: 1 / n;
    - ``median_frequency``: median frequency / frequency, where the frequency of a class is n over the labelled pixels
      of the images that show the class (Eigen and Fergus 2015, section 6.3.2);
    - ``effective_number``: (1 - beta) / (1 - beta^n) (Cui et al. 2019, equation 2).

    Raises:
        ConfigError: weights by frequency are asked for, and no training pixel has a label.
    """
    if config.class_weights == "none":
        return np.ones(len(counts.pixels))
    present = counts.pixels > 0
    if not present.any():
        raise ConfigError(f"loss.class_weights={config.class_weights} needs labelled training pixels; there are none.")
    shown = counts.pixels[present].astype(np.float64)
    if config.class_weights == "effective_number":
        rarity = 1 / effective_number(shown, config.effective_beta)
    elif config.class_weights == "median_frequency":
        rarity = counts.image_pixels[present] / shown  # the median, a factor of all of them, is lost in the scaling
    else:
        rarity = 1 / shown
    softened = rarity**config.weight_exponent
    weights = np.zeros(len(counts.pixels))
    weights[present] = softened / softened.mean()
    return weights


def effective_number(samples: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    """1 - beta^n without cancellation for beta near 1: the effective number of samples but for a constant factor.

    Args:
        samples: n, at least 1, any shape.
        beta: at least 0 and below 1.
    """
    return -np.expm1(samples * np.log(beta)) if beta > 0 else np.ones_like(samples)
