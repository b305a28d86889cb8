"""From predictions to metrics: one confusion matrix over a whole data set, and what is read off it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.datasets import IGNORE_INDEX
from trainers.distributed import ALONE, Group


@dataclass(frozen=True)
class SegmentationMetrics:
    """The metrics of one data set, from its confusion matrix.

    Classes that occur neither in the prediction nor in the truth count in no mean; a mean over no class at all
    (every pixel ignored) is 0.
    """

    confusion: NDArray[np.int64]
    """Labelled pixels of each pair of classes, shape (classes, classes); rows are the truth."""

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class, shape (classes,); NaN for a class in neither prediction nor truth."""
        union = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - self.confusion.diagonal()
        return ratio(self.confusion.diagonal(), union)

    @property
    def miou(self) -> float:
        """Mean IoU."""
        return mean(self.iou)

    @property
    def miou_foreground(self) -> float:
        """Mean IoU without class 0, the background."""
        return mean(self.iou[1:])

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are right."""
        total = self.confusion.sum()
        return float(self.confusion.trace() / total) if total else 0.0

    @property
    def mean_class_accuracy(self) -> float:
        """Mean over the classes in the truth of the share of their pixels that are right."""
        return mean(ratio(self.confusion.diagonal(), self.confusion.sum(axis=1)))


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """``part / whole``, NaN where ``whole`` is 0."""
    quotient = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


def mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are defined, 0 if none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else 0.0


class ConfusionMatrix:
    """Counts pixels by true and predicted class, on the device where they are."""

    def __init__(self, num_classes: int, device: torch.device | str) -> None:
        self.num_classes = num_classes
        # Ignored pixels, the matrix by rows of the truth, and labels beyond the last class.
        self._counts = torch.zeros(num_classes**2 + 2, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: class of each pixel, integer, shape (n, h, w).
            target: true class of each pixel, int64, shape (n, h, w); 255 is not counted.
        """
        cell = 1 + target * self.num_classes + prediction
        cell = torch.where(target == IGNORE_INDEX, 0, cell.clamp_(max=len(self._counts) - 1))
        self._counts += count_values(cell.flatten(1), len(self._counts))

    def compute(self, group: Group = ALONE) -> SegmentationMetrics:
        """The metrics of all pixels that all of ``group`` counted so far.

        Raises:
            ValueError: a label was out of range.
        """
        counts = group.sum(self._counts).cpu().numpy().copy()
        if counts[-1]:
            raise ValueError(f"Labels must be below {self.num_classes} or {IGNORE_INDEX} (ignored).")
        return SegmentationMetrics(counts[1:-1].reshape(self.num_classes, self.num_classes))


def count_values(rows: Tensor, number: int) -> Tensor:
    """How often each of the integers below ``number`` occurs in ``rows`` (n, m), int64, shape (number,)."""
    if rows.device.type == "cpu":
        return torch.bincount(rows.flatten(), minlength=number)
    return count_without_waiting(rows, number)


def count_without_waiting(rows: Tensor, number: int) -> Tensor:
    """As :func:`count_values`; torch.bincount would wait for the GPU, to learn the largest value.

    Rows are counted apart, since threads that add to the same number take turns.
    """
    counts = torch.zeros(len(rows), number, dtype=torch.int64, device=rows.device)
    return counts.scatter_add_(1, rows, torch.ones_like(rows)).sum(0)


def constant_prediction_metrics(class_pixels: NDArray[np.int64], index: int) -> SegmentationMetrics:
    """The metrics of predicting class ``index`` everywhere: the floor that any model has to beat.

    Args:
        class_pixels: pixels of each class in the data set to predict, shape (classes,).
        index: the class predicted.
    """
    confusion = np.zeros((len(class_pixels), len(class_pixels)), dtype=np.int64)
    confusion[:, index] = class_pixels
    return SegmentationMetrics(confusion)
