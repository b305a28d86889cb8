"""Images of any kind in, masks and overlays out: what prediction reads and writes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainers.datasets.folder import read_image
from trainers.datasets.masks import open_image
from trainers.datasets.samples import BadSampleError
from trainers.exporting.description import ModelDescription

DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")
"""Pixel types of PIL that hold 16 bits."""
OPACITY = 0.5
"""Of the mask in an overlay."""
JPEG_QUALITY = 90
MAX_SIDE = 65_500
"""Of a JPEG, in pixels."""

Pixels = NDArray[np.uint8]


def read_rgb(path: Path) -> Pixels:
    """An image as RGB, shape (height, width, 3), upright as its EXIF orientation says.

    As for training, but for images of 16 bits: their values are scaled from 0 to 65535 to 0 to 255.

    Raises:
        BadSampleError: unreadable, of a pixel type without a known range, or too large for an overlay.
    """
    with open_image(path) as stored:
        if max(stored.size) > MAX_SIDE:
            raise BadSampleError(f"{stored.width} x {stored.height} pixels; at most {MAX_SIDE} a side can be written")
        if stored.mode not in DEEP_MODES:
            return read_image(path)
        values = np.asarray(ImageOps.exif_transpose(stored)).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise BadSampleError(f"pixel values from {values.min()} to {values.max()}; 8 and 16 bits can be read")
    grey = np.rint(values / 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def shrink(image: Pixels, height: int, width: int) -> Pixels:
    """The image at the size that a model was trained at, by the averaging with which its data were packed."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def enlarge(mask: Pixels, height: int, width: int) -> Pixels:
    """A mask of class indices at another size, by nearest neighbour."""
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def palette(description: ModelDescription) -> Pixels:
    """Red, green and blue of the 256 mask values, shape (256, 3)."""
    colors = np.full((256, 3), description.ignored_color, np.uint8)
    colors[: len(description.classes)] = [item.color for item in description.classes]
    return colors


def write_mask(mask: Pixels, colors: Pixels, path: Path) -> None:
    """Write class indices (height, width) as a PNG that shows them in their colours."""
    picture = Image.fromarray(mask)
    picture.putpalette(colors.ravel().tolist())
    picture.save(path, format="PNG")


def write_overlay(image: Pixels, mask: Pixels, colors: Pixels, path: Path) -> None:
    """Write the image (height, width, 3) with its mask (height, width) half transparent over it as a JPEG."""
    blended = cv2.addWeighted(image, 1 - OPACITY, colors[mask], OPACITY, 0)
    Image.fromarray(np.asarray(blended, np.uint8)).save(path, format="JPEG", quality=JPEG_QUALITY)
