"""The vocabulary of the data layer: what a layout lists, and what a trial reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainers.config import DataConfig
from trainers.settings import TrialError

IGNORE_INDEX = 255
"""Mask value of pixels that count neither in the loss nor in a metric."""

DEFAULT_VAL_FRACTION = 0.2


class DataError(TrialError):
    """Data that cannot be used. The message is for the user: what is wrong, where, and what would be right."""


class BadSampleError(ValueError):
    """Why one pair of image and mask cannot be used; collected over the whole set before anyone is told."""


@dataclass(frozen=True)
class SegmentationClass:
    """A class as reports show it; its index in masks is its position in :attr:`SegmentationData.classes`."""

    name: str
    color: tuple[int, int, int]


def neutral_color(classes: Sequence[SegmentationClass]) -> tuple[int, int, int]:
    """The grey least like any class's colour: for mask values that are no class."""
    colors = np.array([item.color for item in classes])
    level = max(range(256), key=lambda grey: float(np.linalg.norm(colors - grey, axis=1).min()))
    return level, level, level


@dataclass(frozen=True, eq=False)
class Split:
    """Images and masks of one split, memory-mapped and read-only.

    ``images`` is (n, height, width, 3) RGB; ``masks`` is (n, height, width) of class indices or ``IGNORE_INDEX``.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """How often training shows each class; arrays of shape (num_classes,)."""

    pixels: NDArray[np.int64]
    """Pixels of the class."""
    image_pixels: NDArray[np.int64]
    """Labelled pixels of the images that show the class."""


@dataclass(frozen=True)
class SegmentationData:
    """A data set ready to train on. ``notes`` says what a reader must know: files left out, how val was chosen."""

    name: str
    train: Split
    val: Split
    classes: tuple[SegmentationClass, ...]
    notes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Classes that count, ignored ones left out."""
        return len(self.classes)

    def class_counts(self) -> ClassCounts:
        """How often the training masks show each class; ignored pixels are left out."""
        pixels = np.zeros(self.num_classes, np.int64)
        image_pixels = np.zeros_like(pixels)
        for mask in self.train.masks:  # one image at a time, so that a large map is never copied whole
            counts = np.bincount(mask.ravel(), minlength=self.num_classes)[: self.num_classes]
            pixels += counts
            image_pixels[counts > 0] += counts.sum()
        return ClassCounts(pixels, image_pixels)


class Sample(Protocol):
    """One image with its mask, wherever it comes from."""

    @property
    def name(self) -> str:
        """What the user knows it by: a path below the root."""

    def fingerprint(self) -> str:
        """Changes whenever the bytes that :meth:`load` returns may have changed."""

    def load(self, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str | None]:
        """Image (height, width, 3) in RGB, mask (height, width), and a remark on the pair or None.

        Raises:
            BadSampleError: the pair cannot be used, with the reason.
        """


@dataclass(frozen=True)
class Listing:
    """What a layout found: samples per split sorted by name, classes, remarks, and pairs that are not pairs."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    classes: tuple[SegmentationClass, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def count_classes(masks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels of each of the 256 mask values; one image at a time, so that a large map is never copied whole."""
    counts = np.zeros(256, np.int64)
    for mask in masks:
        counts += np.bincount(mask.ravel(), minlength=256)
    return counts


def hold_out(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Split samples sorted by name into training and validation; the same seed holds out the same names.

    Raises:
        DataError: fewer than two samples.
    """
    if len(samples) < 2:
        raise DataError(f"{len(samples)} pair of image and mask cannot be split into training and validation.")
    held_out = min(max(1, round(len(samples) * fraction)), len(samples) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(samples))[:held_out].tolist())
    train = tuple(sample for index, sample in enumerate(samples) if index not in chosen)
    val = tuple(sample for index, sample in enumerate(samples) if index in chosen)
    return train, val


def apply_split(listing: Listing, config: DataConfig, note: str) -> Listing:
    """Choose the validation samples and limit both splits as ``config`` asks.

    ``data.val_fraction`` holds out training samples; a listing without validation samples holds out a fifth; else
    the listing's own split stands, and ``note`` says what it is. ``data.max_images`` keeps the first of each by name.
    """
    train, val = listing.train, listing.val
    fraction = config.val_fraction
    if fraction is None and not val:
        fraction = DEFAULT_VAL_FRACTION
    if fraction is not None:
        train, val = hold_out(train, fraction, config.split_seed)
        note = f"validation: {len(val)} of {len(train) + len(val)} training images held out (seed {config.split_seed})"
    limit = config.max_images
    return replace(listing, train=train[:limit], val=val[:limit], notes=(*listing.notes, note))
