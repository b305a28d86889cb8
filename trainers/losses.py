"""Losses over logits, by name, each with or without class weights, and their weighted sum.

Two kinds of average, both over the labelled pixels of a batch: losses of a pixel (cross-entropy, focal, hinge) count
each pixel with the weight of its true class; losses of a region (Dice, Lovász) exist once a class and count each
class that the labels of the batch show with its weight.

Where several workers divide a batch, each has the loss of the whole batch, but for Lovász: see :class:`Lovasz`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.class_weights import class_weights
from trainers.config import LossConfig
from trainers.datasets import IGNORE_INDEX, ClassCounts
from trainers.distributed import ALONE, Group


class SegmentationLoss(nn.Module, ABC):
    """What all losses share: precision, ignored pixels and class weights.

    Ignored pixels have no part in value or gradient, whatever their logits. A batch without weight (all pixels
    ignored, or all of classes that weigh 0) costs exactly 0 and has zero gradient. A NaN logit at a labelled pixel
    gives a NaN loss. Half precision is computed in float32; float64 stays float64.
    """

    weights: Tensor
    group: Group = ALONE
    """The workers whose batches are parts of one."""

    def __init__(self, weights: Tensor) -> None:
        """Take the weight of each class, shape (classes,)."""
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Map logits (n, classes, h, w) and int64 labels (n, h, w), 255 ignored, to a scalar.

        Raises:
            ValueError: the logits have another number of classes than the weights.
        """
        if logits.shape[1] != len(self.weights):
            raise ValueError(f"The loss is for {len(self.weights)} classes; the logits have {logits.shape[1]}.")
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self._cost(scores.masked_fill((target == IGNORE_INDEX).unsqueeze(1), 0), target)

    @abstractmethod
    def _cost(self, scores: Tensor, target: Tensor) -> Tensor:
        """The loss of :meth:`forward`, of logits in full precision that are constant 0 at ignored pixels."""


class PixelLoss(SegmentationLoss):
    """A loss of each pixel, averaged over the labelled ones with the weight of their true class."""

    pixel_weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__(weights)
        by_label = torch.zeros(IGNORE_INDEX + 1)
        by_label[: len(weights)] = weights
        self.register_buffer("pixel_weights", by_label, persistent=False)

    def _cost(self, scores: Tensor, target: Tensor) -> Tensor:
        weights = self.pixel_weights.to(scores.dtype)[target]
        return weighted_mean(self._pixel_losses(scores, target), weights, self.group)

    @abstractmethod
    def _pixel_losses(self, scores: Tensor, target: Tensor) -> Tensor:
        """Loss of each pixel, shape (n, h, w); finite where ignored."""


class CrossEntropy(PixelLoss):
    """-log p of the true class, p the softmax of the logits."""

    def _pixel_losses(self, scores: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(scores, target, ignore_index=IGNORE_INDEX, reduction="none")


class Focal(PixelLoss):
    """-(1 - p)^gamma log p of the true class, p the softmax of the logits (Lin et al. 2017, equation 4).

    The average is over the weights of all labelled pixels, as for cross-entropy, which ``gamma=0`` is.
    """

    def __init__(self, weights: Tensor, gamma: float) -> None:
        super().__init__(weights)
        self.gamma = gamma

    def _pixel_losses(self, scores: Tensor, target: Tensor) -> Tensor:
        entropy = F.cross_entropy(scores, target, ignore_index=IGNORE_INDEX, reduction="none")
        # The slope of x^gamma is infinite at 0 for gamma < 1, and a sure pixel (entropy 0) would turn it into NaN.
        doubt = -torch.expm1(-entropy).clamp(max=-torch.finfo(entropy.dtype).tiny)
        return doubt**self.gamma * entropy


class Hinge(PixelLoss):
    """max(0, 1 + best other logit - logit of the true class) (Crammer and Singer 2001).

    Keras' ``CategoricalHinge`` is the same where some other score is at least 0, as with the softmax outputs it is
    given there; on logits it would stop pushing down rivals below 0.
    """

    def _pixel_losses(self, scores: Tensor, target: Tensor) -> Tensor:
        label = target.masked_fill(target == IGNORE_INDEX, 0).unsqueeze(1)
        rival = scores.scatter(1, label, -torch.inf).amax(1)
        return F.relu(1 + rival - scores.gather(1, label).squeeze(1))


class RegionLoss(SegmentationLoss):
    """A loss of each class over all labelled pixels of the batch, averaged over the classes that its labels show."""

    def _cost(self, scores: Tensor, target: Tensor) -> Tensor:
        truth = target.unsqueeze(1) == torch.arange(len(self.weights), device=target.device).view(-1, 1, 1)
        present = self.group.sum(truth.sum(dim=(0, 2, 3))) > 0
        losses = self._class_losses(scores.softmax(1), truth, (target == IGNORE_INDEX).unsqueeze(1))
        return weighted_mean(losses, self.weights.to(scores.dtype) * present)

    @abstractmethod
    def _class_losses(self, probabilities: Tensor, truth: Tensor, ignored: Tensor) -> Tensor:
        """Loss of each class, shape (classes,); any finite number for a class without a true pixel.

        Args:
            probabilities: shape (n, classes, h, w).
            truth: whether each pixel is of each class, bool, shape (n, classes, h, w); nowhere where ignored.
            ignored: whether each pixel is ignored, bool, shape (n, 1, h, w).
        """


class Dice(RegionLoss):
    """1 - 2 sum(p t) / (sum(p) + sum(t)) of probability p and truth t of a class over all pixels.

    Soft Dice (Milletari et al. 2016) with plain sums in the denominator, as Sudre et al. (2017) write it.
    """

    def _class_losses(self, probabilities: Tensor, truth: Tensor, ignored: Tensor) -> Tensor:
        pixels = (0, 2, 3)
        overlap = (probabilities * truth).sum(pixels)
        total = probabilities.masked_fill(ignored, 0).sum(pixels) + truth.sum(pixels)
        overlap, total = self.group.sum(torch.stack([overlap, total])).unbind()
        return 1 - 2 * overlap / torch.where(total > 0, total, 1)


class Lovasz(RegionLoss):
    """Lovász-softmax: the convex extension of 1 - IoU to probabilities (Berman et al. 2018, arXiv 1705.08790).

    It sorts all pixels, which workers that divide a batch do not have together: the loss of a class is then the mean
    of theirs, over the workers whose labels show it. Smaller batches make it a little larger.
    """

    def _class_losses(self, probabilities: Tensor, truth: Tensor, ignored: Tensor) -> Tensor:
        # Below every error, ignored pixels come last, where the Jaccard loss is 1 already and grows no more.
        errors = (truth.to(probabilities.dtype) - probabilities).abs().masked_fill(ignored, -1)
        # Stable, so that the subgradient at equal errors is the same in every run.
        errors, order = errors.movedim(1, 0).flatten(1).sort(dim=1, descending=True, stable=True)
        steps = jaccard_steps(truth.movedim(1, 0).flatten(1).gather(1, order), errors.dtype)
        losses = (errors * steps).sum(1)
        if self.group.size == 1:
            return losses
        shown = truth.any(dim=(0, 2, 3)).to(losses.dtype)
        total, workers = self.group.sum(torch.stack([losses * shown, shown])).unbind()
        return total / workers.clamp(min=1)


def jaccard_steps(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """What each further wrong pixel adds to the Jaccard loss 1 - intersection / union of its class.

    Closed form of the differences in algorithm 1 of Berman et al.: a missed pixel takes one from the intersection, a
    false one adds one to the union. Subtracting neighbouring losses would lose their digits in float32.

    Args:
        truth: whether each pixel is of the class, bool, shape (classes, pixels), in the order they become wrong.
        dtype: of the result, shape (classes, pixels).
    """
    rank = torch.arange(1, truth.shape[1] + 1, device=truth.device)
    missed = truth.cumsum(1)
    actual = missed[:, -1:]
    intersection = (actual - missed).to(dtype)
    union = (actual + rank - missed).to(dtype)
    false = intersection / (union * (union - 1).clamp(min=1))
    return torch.where(truth, 1 / union, false)


class WeightedSum(nn.Module):
    """A sum of losses, each with a factor."""

    def __init__(self, terms: Sequence[tuple[float, SegmentationLoss]]) -> None:
        super().__init__()
        self.factors = [factor for factor, _ in terms]
        self.losses = nn.ModuleList(loss for _, loss in terms)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """As :meth:`SegmentationLoss.forward`."""
        costs = [factor * loss(logits, target) for factor, loss in zip(self.factors, self.losses, strict=True)]
        return torch.stack(costs).sum()


def weighted_mean(losses: Tensor, weights: Tensor, group: Group = ALONE) -> Tensor:
    """Mean with weights over what all of ``group`` give, and 0 if they are all 0; a NaN loss stays NaN."""
    total, mass = group.sum(torch.stack([(losses * weights).sum(), weights.sum()])).unbind()
    return total / torch.where(mass > 0, mass, 1)


def build_loss(config: LossConfig, counts: ClassCounts, group: Group = ALONE) -> nn.Module:
    """Build the loss that ``config`` describes; terms of a sum with factor 0 are left out.

    Args:
        config: name, settings and class weighting.
        counts: how often training shows each class.
        group: the workers that divide each batch.

    Raises:
        ConfigError: weights by frequency are asked for, and no training pixel has a label.
    """
    weights = torch.from_numpy(class_weights(config, counts)).float()
    named = config.name != "sum"
    factors = {config.name: 1.0} if named else dataclasses.asdict(config.terms)
    terms = [(factor, build_term(name, weights, config)) for name, factor in factors.items() if factor > 0]
    for _, term in terms:
        term.group = group
    return terms[0][1] if named else WeightedSum(terms)


def build_term(name: str, weights: Tensor, config: LossConfig) -> SegmentationLoss:
    """Build one loss that is no sum, with class weights of shape (classes,)."""
    if name == "focal":
        return Focal(weights, config.focal_gamma)
    plain: dict[str, Callable[[Tensor], SegmentationLoss]] = {
        "cross_entropy": CrossEntropy,
        "dice": Dice,
        "lovasz": Lovasz,
        "hinge": Hinge,
    }
    return plain[name](weights)
