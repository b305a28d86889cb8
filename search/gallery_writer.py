"""Writing a run's gallery: pictures of validation images, of their truth, and of what models predict in them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.files import write_atomically
from search.gallery import IMAGES, TRUTH, Gallery, write_index
from trainers.datasets import SegmentationData, neutral_color
from trainers.prediction import spread

NUM_IMAGES = 6
"""Images that all models show, where the validation set has as many."""

Pixels = NDArray[np.uint8]


class GalleryWriter:
    """Writes the gallery of a data set's validation images into an empty folder."""

    def __init__(self, folder: Path, data: SegmentationData) -> None:
        self._data = data
        self._shown: dict[str, tuple[int, ...]] = {}
        self._gallery = Gallery(
            folder=folder,
            names={index: data.val.names[index] for index in spread(len(data.val), NUM_IMAGES)},
            classes=data.classes,
            ignored_color=neutral_color(data.classes),
            shown={},
            missing={},
        )

    def add(self, trial_id: str, masks: Mapping[int, Pixels]) -> None:
        """Write what a model predicts: class indices (height, width) by position in the validation set."""
        self._shown[trial_id] = tuple(sorted(masks))
        for index, mask in masks.items():
            self._write(trial_id, index, mask)

    def finish(self, order: Sequence[str], missing: Mapping[str, str]) -> None:
        """Write the images and the truth that are shown, once each, and the index.

        Args:
            order: ``trial_id`` of the models added, in the order of the front.
            missing: ``trial_id`` of the others to why they could not predict.
        """
        for index in sorted({*self._gallery.names}.union(*self._shown.values())):
            self._write(IMAGES, index, np.asarray(self._data.val.images[index]))
            self._write(TRUTH, index, np.asarray(self._data.val.masks[index]))
        shown = {trial: self._shown[trial] for trial in order}
        write_index(dataclasses.replace(self._gallery, shown=shown, missing=missing))

    def _write(self, kind: str, index: int, pixels: Pixels) -> None:
        """One picture: RGB (height, width, 3), or a mask (height, width)."""
        picture = Image.fromarray(pixels)
        if pixels.ndim == 2:
            picture.putpalette(self._palette)
        path = self._gallery.file(kind, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, functools.partial(picture.save, format="PNG"))

    @functools.cached_property
    def _palette(self) -> list[int]:
        """Red, green and blue of the 256 mask values."""
        palette = np.full((256, 3), self._gallery.ignored_color, np.uint8)
        palette[: len(self._gallery.classes)] = [item.color for item in self._gallery.classes]
        flat: list[int] = palette.ravel().tolist()
        return flat
