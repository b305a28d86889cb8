"""How a model fails: errors by class, by image, along contours and by size of object, counted image by image.

Pixels that the truth ignores count nowhere. All figures over a data set are ratios of sums over its images, as mIoU is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainers.datasets import IGNORE_INDEX
from trainers.evaluation import ratio

BOUNDARY_SHARE = 0.02
"""Width of the band along contours, as a share of the image's diagonal (Cheng et al. 2021)."""
COCO_LIMITS_PX = (32**2, 96**2)
"""COCO's object areas: below the first small, below the second medium, else large (Lin et al. 2014)."""
COCO_IMAGE_PX = 640 * 480
"""The usual size of COCO's images, which those areas are meant for."""

Labels = NDArray[np.uint8]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SegmentationErrors:
    """The errors of one model on N images of C classes."""

    confusion: Counts
    """(C, C) pixels; rows are the truth, columns the prediction."""
    image_classes: Counts
    """(N, C, 3) pixels: intersection, predicted, truth."""
    boundary_iou: NDArray[np.float64]
    """(C,), NaN for a class in neither prediction nor truth; see :func:`boundary_counts`."""
    size_iou: NDArray[np.float64]
    """(C, 3) of small, medium and large objects, NaN where the truth has none; see :func:`size_counts`."""
    size_objects: Counts
    """(C, 3) small, medium and large objects in the truth."""


class ErrorCounter:
    """Counts the errors in images that come in order.

    Attributes:
        image_classes: (N, C, 3) pixels as in :class:`SegmentationErrors`, zero for images that did not come yet.
    """

    def __init__(self, num_classes: int, num_images: int, height: int, width: int) -> None:
        self.image_classes = np.zeros((num_images, num_classes, 3), np.int64)
        self._images = 0
        self._boundary_width_px = boundary_width_px(height, width)
        self._size_limits_px = size_limits_px(height, width)
        self._confusion = np.zeros((num_classes, num_classes), np.int64)
        self._boundary = np.zeros((num_classes, 3), np.int64)
        self._sizes = np.zeros((num_classes, 3, 3), np.int64)
        self._objects = np.zeros((num_classes, 3), np.int64)

    def update(self, predictions: Labels, masks: Labels) -> None:
        """Count the next images.

        Args:
            predictions: class of each pixel, (n, h, w).
            masks: true class of each pixel, (n, h, w), or ``IGNORE_INDEX``.

        Raises:
            ValueError: a class is out of range.
        """
        for prediction, truth in zip(predictions, masks, strict=True):
            self._count(np.where(truth == IGNORE_INDEX, IGNORE_INDEX, prediction), np.asarray(truth))

    def compute(self) -> SegmentationErrors:
        """The errors in all images counted so far."""
        return SegmentationErrors(
            confusion=self._confusion.copy(),
            image_classes=self.image_classes.copy(),
            boundary_iou=_iou(self._boundary),
            size_iou=np.where(self._objects > 0, _iou(self._sizes), np.nan),
            size_objects=self._objects.copy(),
        )

    def _count(self, prediction: Labels, truth: Labels) -> None:
        num_classes = len(self._confusion)
        confusion = confusion_counts(prediction, truth, num_classes)
        self._confusion += confusion
        columns = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
        self.image_classes[self._images] = np.stack(columns, axis=-1)
        self._boundary += boundary_counts(prediction, truth, num_classes, self._boundary_width_px)
        sizes, objects = size_counts(prediction, truth, num_classes, self._size_limits_px)
        self._sizes += sizes
        self._objects += objects
        self._images += 1


def boundary_width_px(height: int, width: int) -> int:
    """Width of the band along contours in images of this size: 2 % of the diagonal, at least one pixel."""
    return max(1, round(BOUNDARY_SHARE * math.hypot(height, width)))


def size_limits_px(height: int, width: int) -> tuple[float, float]:
    """Areas that divide small from medium and medium from large objects: COCO's, as shares of the image's area."""
    small, medium = (limit * height * width / COCO_IMAGE_PX for limit in COCO_LIMITS_PX)
    return small, medium


def confusion_counts(prediction: Labels, truth: Labels, num_classes: int) -> Counts:
    """Labelled pixels of one image by class, (C, C); rows are the truth.

    Args:
        prediction: class of each pixel, (h, w), ``IGNORE_INDEX`` where ``truth`` is.
        truth: true class of each pixel, (h, w), or ``IGNORE_INDEX``.
        num_classes: C.

    Raises:
        ValueError: a class is out of range.
    """
    pairs = _pairs(truth, prediction)
    counts = pairs[:num_classes, :num_classes]
    if counts.sum() + pairs[IGNORE_INDEX, IGNORE_INDEX] != truth.size:
        raise ValueError(f"Labels must be below {num_classes} or {IGNORE_INDEX} (ignored).")
    return counts


def boundary_counts(prediction: Labels, truth: Labels, num_classes: int, width_px: int) -> Counts:
    """Intersection, predicted and truth of Boundary IoU in one image, (C, 3) pixels.

    Of each class's region only the band counts: its pixels with another class, an ignored pixel or the outside of the
    image at most ``width_px`` away, horizontally, vertically or diagonally (Cheng et al. 2021, "Boundary IoU",
    https://arxiv.org/abs/2103.16562, equation 1, with the square neighbourhood and the image's border as a contour
    that its authors' code has). That paper knows no ignored pixels. Here they lie outside of the image, for prediction
    and truth alike: their outline is a contour of both, so that it does not depend on the model which pixels of the
    truth count, and the unlabelled rim that some data sets put around objects leaves the object a contour.

    Args:
        prediction: as for :func:`confusion_counts`, as are the next two.
        truth: the true classes.
        num_classes: C.
        width_px: see :func:`boundary_width_px`.
    """
    pairs = _pairs(_band(truth, width_px), _band(prediction, width_px))
    columns = pairs.diagonal(), pairs.sum(axis=0), pairs.sum(axis=1)
    return np.stack(columns, axis=-1)[:num_classes]


def size_counts(
    prediction: Labels, truth: Labels, num_classes: int, limits_px: tuple[float, float]
) -> tuple[Counts, Counts]:
    """Intersection, predicted and truth by size of object in one image, (C, 3 sizes, 3) pixels; objects, (C, 3).

    An object is a connected component of a class in the truth, diagonal neighbours included; two that touch are one,
    and one that ignored pixels cut apart is several. Its share of the prediction are the pixels of its class nearer to
    it than to another object of the class (chamfer distance, Borgefors 1986), so that each false positive counts
    against one size. No published metric of semantic segmentation says which size a false positive belongs to
    (Cityscapes' iIoU gives it to none); where the truth has no object of its class in the image it is left out.

    Args:
        prediction: as for :func:`confusion_counts`, as are the next two.
        truth: the true classes.
        num_classes: C.
        limits_px: see :func:`size_limits_px`.
    """
    counts, objects = np.zeros((num_classes, 3, 3), np.int64), np.zeros((num_classes, 3), np.int64)
    for index in np.flatnonzero(np.bincount(truth.ravel(), minlength=num_classes)[:num_classes]):
        predicted, true = _crop(prediction == index, truth == index)
        _, nearest = cv2.distanceTransformWithLabels(
            (~true).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_CCOMP
        )
        regions = (predicted & true, predicted, true)
        number = nearest.max() + 1
        pixels = np.stack([np.bincount(nearest[region], minlength=number) for region in regions], axis=-1)[1:]
        sizes = np.digitize(pixels[:, 2], limits_px)
        np.add.at(counts[index], sizes, pixels)
        objects[index] = np.bincount(sizes, minlength=3)
    return counts, objects


def _iou(counts: Counts) -> NDArray[np.float64]:
    """IoU from intersection, predicted and truth on the last axis, NaN for an empty union."""
    intersection, predicted, truth = np.moveaxis(counts, -1, 0)
    return ratio(intersection, predicted + truth - intersection)


def _pairs(first: Labels, second: Labels) -> Counts:
    """Pixels by their pair of labels, (256, 256)."""
    return np.bincount((first.astype(np.uint16) << 8 | second).ravel(), minlength=1 << 16).reshape(256, 256)


def _band(labels: Labels, width_px: int) -> Labels:
    """The labels along contours, ``IGNORE_INDEX`` elsewhere: where the square around a pixel has a second label."""
    square = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)
    lowest, highest = (
        morphology(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE_INDEX)
        for morphology in (cv2.erode, cv2.dilate)
    )
    return np.where(lowest == highest, np.uint8(IGNORE_INDEX), labels)


def _crop(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both without the rows and columns at the edges in which neither is true."""
    left, top, width, height = cv2.boundingRect((first | second).view(np.uint8))
    window = slice(top, top + height), slice(left, left + width)
    return first[window], second[window]
