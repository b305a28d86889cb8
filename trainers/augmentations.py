"""How training images are varied: the three policies, in albumentations' terms.

Images and masks are changed together; their shape stays, or becomes the crop. Pixels that a rotation or a smaller
scale would bring in from outside are mirrored from inside, in image and mask alike, so no label is invented.
"""

from __future__ import annotations

import os

# The library otherwise asks a package registry for newer versions when it is imported.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2

from trainers.choices import POLICIES
from trainers.settings import choose

# A trial's processors are counted out to torch; a second pool of threads would take them from its neighbours.
cv2.setNumThreads(1)


def build_augmentation(policy: str, crop: int | None) -> A.Compose:
    """The transforms of a policy, followed by a random square crop of ``crop`` pixels unless that is None.

    - ``none``: the crop only.
    - ``light``: each image is mirrored left to right and top to bottom with probability one half each; square crops
      are also turned by a multiple of 90 degrees.
    - ``strong``: besides, 4 images in 5 are rotated by up to 45 degrees, scaled by 0.7 to 1.4 and shifted by up to
      6 %; 4 in 5 change brightness and contrast by up to 30 %, saturation by up to 30 % and hue by up to 11 degrees;
      1 in 5 is blurred slightly and 1 in 5 gets sensor noise of 1 to 4 % of full scale.

    ``set_random_state`` of the result decides all that follows; it is not meant to be shared between threads.

    Raises:
        ConfigError: an unknown policy.
    """
    choose("augmentation.policy", policy, POLICIES)
    steps: list[A.BasicTransform] = []
    if policy == "strong":
        steps.append(_geometry())
    if crop is not None:
        steps.append(A.RandomCrop(crop, crop))
    if policy != "none":
        steps += [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
        steps += [A.RandomRotate90(p=1.0)] if crop is not None else []
    if policy == "strong":
        steps += _photometry()
    return A.Compose(steps)


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
