"""How training images are varied: the policies, in albumentations' terms.

Images and masks are changed together; their shape stays, or becomes the crop. Pixels that a rotation or a smaller
scale would bring in from outside are mirrored from inside, in image and mask alike, so no label is invented.
"""

from __future__ import annotations

import math
import os

# The library otherwise asks a package registry for newer versions when it is imported.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from trainers.config import AugmentationConfig
from trainers.datasets import IGNORE_INDEX

# A trial's processors are counted out to torch; a second pool of threads would take them from its neighbours.
cv2.setNumThreads(1)

HUE_SHARE = 0.1
"""Custom: largest change of hue, in turns of the colour circle, over that of the other colour changes; hue tells
classes apart more than brightness does, and ``strong`` has the same proportion."""
HOLES = 6
"""Custom: rectangles blanked out in each image."""


def build_augmentation(config: AugmentationConfig, crop: int | None) -> A.Compose:
    """The transforms of a policy, with a random square crop of ``crop`` pixels unless that is None.

    - ``none``: the crop only.
    - ``light``: each image is mirrored left to right and top to bottom with probability one half each; square crops
      are also transposed with probability one half, so that all eight turns and mirrorings are equally likely.
    - ``strong``: besides, 4 images in 5 are rotated by up to 45 degrees, scaled by 0.7 to 1.4 and shifted by up to
      6 %; 4 in 5 change brightness and contrast by up to 30 %, saturation by up to 30 % and hue by up to 11 degrees;
      1 in 5 is blurred slightly and 1 in 5 gets sensor noise of 1 to 4 % of full scale.
    - ``custom``: scale (:class:`RandomScaleCrop`), the flips of ``light`` with probability ``flips``, changes of
      brightness, contrast and saturation by up to ``color`` and of hue by up to :data:`HUE_SHARE` of it, and
      :data:`HOLES` rectangles that cover the share ``dropout`` on average, black in the image and ignored in the
      mask. A part of strength 0 is left out.

    ``set_random_state`` of the result decides all that follows; it is not meant to be shared between threads.
    """
    match config.policy:
        case "none":
            steps = _crop(crop)
        case "light":
            steps = _crop(crop) + _flips(0.5, crop)
        case "strong":
            steps = [_geometry(), *_crop(crop), *_flips(0.5, crop), *_photometry()]
        case "custom":
            steps = [RandomScaleCrop(config.scale, crop)] if config.scale else _crop(crop)
            steps += _flips(config.flips, crop) if config.flips else []
            steps += [_color(config.color)] if config.color else []
            steps += [_dropout(config.dropout)] if config.dropout else []
        case _:
            raise AssertionError(config.policy)
    return A.Compose(steps)


class RandomScaleCrop(A.DualTransform):  # type: ignore[misc]  # the library has no types
    """Scale by a random factor, then cut to size at a random place, mirroring what is missing.

    The logarithm of the factor is uniform, so making larger and smaller are equally likely. The image is averaged
    where it gets smaller, since skipped pixels alias, and interpolated where it gets larger; the mask takes the
    nearest label. (The library's own scaling and cropping in a row would have to know the shape that they keep.)

    Args:
        scale: factors lie between 1 / (1 + scale) and 1 + scale.
        crop: side of the result in pixels; None keeps the shape.
    """

    def __init__(self, scale: float, crop: int | None) -> None:
        super().__init__(p=1.0)
        self.scale = scale
        self.crop = crop

    def get_params_dependent_on_data(self, params: dict[str, tuple[int, ...]], data: object) -> dict[str, object]:  # noqa: ARG002
        """Draw the size after scaling, (height, width), and the top left corner of what is kept of it."""
        shape = params["shape"][:2]
        limit = math.log1p(self.scale)
        factor = math.exp(self.py_random.uniform(-limit, limit))
        scaled = tuple(max(1, round(side * factor)) for side in shape)
        kept = shape if self.crop is None else (self.crop, self.crop)
        # A corner left of or above the image leaves room there for what is mirrored in.
        spare = (inside - wanted for inside, wanted in zip(scaled, kept, strict=True))
        corner = tuple(self.py_random.randint(min(0, room), max(0, room)) for room in spare)
        return {"scaled": scaled, "kept": kept, "corner": corner}

    def apply(self, img: NDArray[np.uint8], **params: tuple[int, int]) -> NDArray[np.uint8]:
        """The image (h, w, 3) scaled and cut."""
        smaller = params["scaled"][0] < img.shape[0]
        return _scaled_crop(img, cv2.INTER_AREA if smaller else cv2.INTER_LINEAR, **_own(params))

    def apply_to_mask(self, mask: NDArray[np.uint8], **params: tuple[int, int]) -> NDArray[np.uint8]:
        """The mask (h, w) scaled and cut."""
        return _scaled_crop(mask, cv2.INTER_NEAREST_EXACT, **_own(params))


def _own(params: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {name: params[name] for name in ("scaled", "kept", "corner")}


def _scaled_crop(
    picture: NDArray[np.uint8],
    interpolation: int,
    scaled: tuple[int, int],
    kept: tuple[int, int],
    corner: tuple[int, int],
) -> NDArray[np.uint8]:
    resized = cv2.resize(picture, (scaled[1], scaled[0]), interpolation=interpolation)
    (top, left), (height, width) = corner, kept
    before = max(0, -top), max(0, -left)
    after = max(0, top + height - scaled[0]), max(0, left + width - scaled[1])
    if any(before + after):
        resized = cv2.copyMakeBorder(resized, before[0], after[0], before[1], after[1], cv2.BORDER_REFLECT_101)
    top, left = max(0, top), max(0, left)
    return np.ascontiguousarray(resized[top : top + height, left : left + width])


def _crop(crop: int | None) -> list[A.BasicTransform]:
    return [] if crop is None else [A.RandomCrop(crop, crop)]


def _flips(probability: float, crop: int | None) -> list[A.BasicTransform]:
    flips = [A.HorizontalFlip(p=probability), A.VerticalFlip(p=probability)]
    return flips if crop is None else [*flips, A.Transpose(p=probability)]


def _geometry() -> A.Affine:
    return A.Affine(
        scale=(0.7, 1.4),
        translate_percent=(-0.06, 0.06),
        rotate=(-45, 45),
        border_mode=cv2.BORDER_REFLECT_101,
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        keep_ratio=True,
        p=0.8,
    )


def _photometry() -> list[A.BasicTransform]:
    return [
        A.ColorJitter(brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(-0.03, 0.03), p=0.8),
        A.GaussianBlur(sigma_limit=(0.3, 1.0), p=0.2),
        A.GaussNoise(std_range=(0.01, 0.04), p=0.2),
    ]


def _color(change: float) -> A.ColorJitter:
    factors, hue = (1 - change, 1 + change), HUE_SHARE * change
    return A.ColorJitter(brightness=factors, contrast=factors, saturation=factors, hue=(-hue, hue), p=1.0)


def _dropout(share: float) -> A.CoarseDropout:
    side = hole_side(share)
    sides = (side, side)
    return A.CoarseDropout(
        (HOLES, HOLES), hole_height_range=sides, hole_width_range=sides, fill=0, fill_mask=IGNORE_INDEX, p=1.0
    )


def hole_side(share: float) -> float:
    """Height and width of each hole, over those of the image, at which all cover ``share`` of it on average.

    Holes overlap, and as they lie within the image its margin is covered less often than its middle. Along one axis
    a hole of side s covers the position x with probability min(x, 1 - x, s, 1 - s) / (1 - s).
    """
    sides = np.linspace(0, 0.99, 200)
    x = (np.arange(100) + 0.5) / 100
    reach = np.minimum(np.minimum(x, 1 - x), np.minimum(sides, 1 - sides)[:, None]) / (1 - sides)[:, None]
    covered = 1 - ((1 - reach[:, :, None] * reach[:, None, :]) ** HOLES).mean(axis=(1, 2))
    return float(np.interp(share, covered, sides))
