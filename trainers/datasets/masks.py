"""How class indices are read from a mask file: index, palette or colour."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainers.datasets.samples import IGNORE_INDEX, BadSampleError, SegmentationClass

Color = tuple[int, int, int]

MAX_LISTED = 5


@dataclass(frozen=True)
class MaskCoding:
    """What the values and the colours in mask files stand for.

    ``values`` and ``colors`` map what is stored to a class index or ``IGNORE_INDEX``; 255 is ignored unless a class
    claims it.
    """

    classes: tuple[SegmentationClass, ...]
    values: Mapping[int, int]
    colors: Mapping[Color, int]

    @cached_property
    def fingerprint(self) -> str:
        """Changes with what any stored value or colour stands for."""
        state = repr((sorted(self.values.items()), sorted(self.colors.items())))
        return hashlib.sha256(state.encode()).hexdigest()[:16]

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Class indices, shape (height, width).

        A palette mask whose colours are all known is read by colour, otherwise by index. The values of a grey mask
        are colours if all class colours are grey and the mask holds no other values, otherwise indices.

        Raises:
            BadSampleError: unreadable, an unsupported pixel type, or labels outside the classes.
        """
        with open_image(path) as stored:
            if stored.mode == "P":
                return self._from_palette(stored)
            if stored.mode in ("1", "L", "I", "I;16", "I;16B"):
                return self._from_grey(np.asarray(stored).astype(np.int64))
            if stored.mode in ("RGB", "RGBA"):
                return self._from_colors(np.asarray(stored.convert("RGB")))
            raise BadSampleError(f"mask has pixel type {stored.mode}; 8-bit index, palette and RGB masks can be read")

    def _from_palette(self, stored: Image.Image) -> NDArray[np.uint8]:
        indices = np.asarray(stored)
        shown = np.asarray(stored.convert("RGB"))
        if _distinct_colors(shown) <= set(self.colors):
            return self._from_colors(shown)
        return self._from_grey(indices.astype(np.int64))

    def _from_grey(self, stored: NDArray[np.int64]) -> NDArray[np.uint8]:
        present = set(np.unique(stored).tolist())
        lookup = self.values
        if all(red == green == blue for red, green, blue in self.colors):
            by_color = {color[0]: index for color, index in self.colors.items()}
            lookup = by_color if present <= set(by_color) else lookup
        outside = sorted(present - set(lookup))
        if outside:
            known = ", ".join(str(value) for value in sorted(set(lookup) - {IGNORE_INDEX}))
            raise BadSampleError(f"label {_listed(outside)} outside the classes ({known}; 255 is ignored)")
        mask = np.full(stored.shape, IGNORE_INDEX, np.uint8)
        for value in present:
            mask[stored == value] = lookup[value]
        return mask

    def _from_colors(self, shown: NDArray[np.uint8]) -> NDArray[np.uint8]:
        outside = sorted(_distinct_colors(shown) - set(self.colors))
        if outside:
            raise BadSampleError(f"colour {_listed(outside)} (red, green, blue) not in the class list")
        codes = _color_codes(shown)
        mask = np.full(codes.shape, IGNORE_INDEX, np.uint8)
        for (red, green, blue), index in self.colors.items():
            mask[codes == (red << 16 | green << 8 | blue)] = index
        return mask


def index_coding(classes: tuple[SegmentationClass, ...], ignored: Mapping[int, Color] | None = None) -> MaskCoding:
    """The usual coding: the mask value is the class index, ``ignored`` values and 255 do not count."""
    ignored = ignored or {}
    values = {IGNORE_INDEX: IGNORE_INDEX} | {index: index for index in range(len(classes))}
    colors = dict.fromkeys(ignored.values(), IGNORE_INDEX)
    colors |= {entry.color: index for index, entry in enumerate(classes)}
    return MaskCoding(classes, values | dict.fromkeys(ignored, IGNORE_INDEX), colors)


def open_image(path: Path) -> Image.Image:
    """A fully decoded PIL image; a truncated file is an error here, not a half-grey picture later.

    Raises:
        BadSampleError: not an image, truncated, or not readable.
    """
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(f" {str(path)!r}", "")
        raise BadSampleError(f"{path.name} cannot be read ({reason})") from error
    return image


def _color_codes(shown: NDArray[np.uint8]) -> NDArray[np.int64]:
    wide = shown.astype(np.int64)
    codes: NDArray[np.int64] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return codes


def _distinct_colors(shown: NDArray[np.uint8]) -> set[Color]:
    codes = np.unique(_color_codes(shown)).tolist()
    return {(code >> 16, code >> 8 & 255, code & 255) for code in codes}


def _listed(values: list[int] | list[Color]) -> str:
    more = f" and {len(values) - MAX_LISTED} more" if len(values) > MAX_LISTED else ""
    return ", ".join(str(value) for value in values[:MAX_LISTED]) + more
