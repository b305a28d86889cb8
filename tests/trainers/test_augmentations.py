"""The augmentation policies: what they change, and that image and mask change together."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import albumentations as A
import numpy as np
import pytest
from numpy.typing import NDArray

from trainers.augmentations import build_augmentation
from trainers.choices import POLICIES
from trainers.config import AugmentationConfig

HEIGHT, WIDTH = 48, 64
COLORS = np.array([(30, 60, 90), (200, 40, 40), (40, 200, 40), (240, 240, 240)], np.uint8)


PARTS = {"flips": 0.5, "scale": 1.0, "color": 0.3, "dropout": 0.25}
IGNORED = 255


def labels() -> NDArray[np.uint8]:
    """Four blocks and one odd corner, so that every flip and turn is told from every other."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, WIDTH // 2 :] += 1
    mask[HEIGHT // 2 :] += 2
    mask[:6, :10] = 3
    return mask


def seeded(
    policy: str, crop: int | None, seed: int = 0, parts: Mapping[str, float] = MappingProxyType({})
) -> A.Compose:
    augmentation = build_augmentation(AugmentationConfig(policy=policy, **parts), crop)
    augmentation.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return augmentation


def apply(augmentation: A.Compose) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    varied = augmentation(image=COLORS[labels()], mask=labels())
    return varied["image"], varied["mask"]


@pytest.mark.parametrize("crop", [None, 32])
@pytest.mark.parametrize("policy", POLICIES)
def test_shape_and_type_are_kept_and_no_label_is_invented(policy: str, crop: int | None) -> None:
    augmentation = seeded(policy, crop, parts=PARTS)
    labels_there = {0, 1, 2, 3} | ({IGNORED} if policy == "custom" else set())
    shape = (HEIGHT, WIDTH) if crop is None else (crop, crop)
    for _ in range(10):
        image, mask = apply(augmentation)
        assert image.shape == (*shape, 3)
        assert mask.shape == shape
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= labels_there


def test_none_changes_nothing_but_crops_at_random_places() -> None:
    image, mask = apply(seeded("none", None))
    np.testing.assert_array_equal(image, COLORS[labels()])
    np.testing.assert_array_equal(mask, labels())
    augmentation = seeded("none", 32)
    crops = [apply(augmentation) for _ in range(12)]
    assert len({mask.tobytes() for _, mask in crops}) > 3
    for image, mask in crops:
        np.testing.assert_array_equal(image, COLORS[mask])


def test_light_mirrors_both_ways_independently() -> None:
    augmentation = seeded("light", None)
    original = labels()
    variants = [original, original[:, ::-1], original[::-1], original[::-1, ::-1]]
    counts = [0, 0, 0, 0]
    for _ in range(200):
        image, mask = apply(augmentation)
        np.testing.assert_array_equal(image, COLORS[mask])
        counts[next(index for index, variant in enumerate(variants) if np.array_equal(mask, variant))] += 1
    assert min(counts) > 25, counts


def test_light_gives_square_crops_all_eight_turns_and_mirrorings_equally() -> None:
    augmentation, square = seeded("light", 32), labels()[:32, :32]
    variants = [turned for mirrored in (square, square.T) for turned in map(partial(np.rot90, mirrored), range(4))]
    counts = [0] * 8
    for _ in range(400):
        mask = augmentation(image=COLORS[square], mask=square)["mask"]
        counts[next(index for index, variant in enumerate(variants) if np.array_equal(mask, variant))] += 1
    assert min(counts) > 25, counts


def test_strong_moves_objects_and_changes_colours() -> None:
    augmentation = seeded("strong", None)
    varied = [apply(augmentation) for _ in range(40)]
    assert len({mask.tobytes() for _, mask in varied}) > 25
    brightness = np.array([image.mean() for image, _ in varied])
    assert brightness.std() > 5
    agree = [np.abs(image[mask == 1].astype(float) - COLORS[1]).mean() for image, mask in varied if (mask == 1).any()]
    assert np.median(agree) < 40, "colours follow the mask"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_state_varies_the_same_way(policy: str) -> None:
    first, second = seeded(policy, 32, 5, PARTS), seeded(policy, 32, 5, PARTS)
    for _ in range(8):
        for one, other in zip(apply(first), apply(second), strict=True):
            np.testing.assert_array_equal(one, other)


# The parts of the custom policy


def custom(crop: int | None = None, **parts: float) -> A.Compose:
    return seeded("custom", crop, parts=dict.fromkeys(PARTS, 0.0) | parts)


def kinds(augmentation: A.Compose) -> list[str]:
    return [type(step).__name__ for step in augmentation.transforms]


def test_a_part_of_strength_zero_is_left_out() -> None:
    assert kinds(custom()) == []
    assert kinds(custom(crop=32)) == ["RandomCrop"]
    assert kinds(custom(flips=0.1)) == ["HorizontalFlip", "VerticalFlip"]
    assert kinds(custom(scale=0.1)) == ["RandomScaleCrop"]
    assert kinds(custom(color=0.1)) == ["ColorJitter"]
    assert kinds(custom(dropout=0.1)) == ["CoarseDropout"]


@pytest.mark.parametrize("crop", [None, 32])
def test_flips_alone_are_the_light_policy(crop: int | None) -> None:
    light, flips = seeded("light", crop), custom(crop, flips=0.5)
    for _ in range(20):
        for one, other in zip(apply(light), apply(flips), strict=True):
            np.testing.assert_array_equal(one, other)


def test_flips_have_their_probability() -> None:
    augmentation = custom(flips=0.2)
    upright = sum(np.array_equal(apply(augmentation)[1], labels()) for _ in range(300)) / 300
    assert upright == pytest.approx(0.8**2, abs=0.09)
    np.testing.assert_array_equal(apply(custom(flips=1.0))[1], labels()[::-1, ::-1])


def scales(augmentation: A.Compose, count: int) -> NDArray[np.float64]:
    """Factors drawn, from the area of a block in the middle that neither leaves the picture nor meets its mirror."""
    block = np.zeros((90, 90), np.uint8)
    block[41:50, 41:50] = 1
    masks = (augmentation(image=COLORS[block], mask=block)["mask"] for _ in range(count))
    return np.array([np.sqrt(mask.sum()) / 9 for mask in masks])


def test_scale_draws_factors_between_its_bounds_and_as_many_below_one_as_above() -> None:
    factors = scales(custom(scale=0.5), 200)
    assert factors.min() > 1 / 1.5 - 0.08
    assert factors.max() < 1.5 + 0.08
    assert factors.min() < 0.75
    assert factors.max() > 1.35
    assert 70 < (factors > 1).sum() < 130


@pytest.mark.parametrize("crop", [None, 32, 48])
def test_scale_keeps_image_and_mask_together_and_mirrors_what_is_missing(crop: int | None) -> None:
    augmentation = custom(crop, scale=2.0)
    for _ in range(30):
        image, mask = apply(augmentation)
        assert image.shape[:2] == ((HEIGHT, WIDTH) if crop is None else (crop, crop))
        off = (np.abs(image.astype(int) - COLORS[mask]).max(axis=2) > 0).mean()
        assert off < 0.2, "colours are mixed at borders between labels, and nowhere else"


def test_scale_cuts_at_random_places() -> None:
    ramp = np.arange(WIDTH, dtype=np.uint8)[None].repeat(HEIGHT, axis=0)
    augmentation = custom(crop=32, scale=0.01)
    lefts = {int(augmentation(image=np.dstack([ramp] * 3), mask=ramp)["mask"][0, 0]) for _ in range(60)}
    assert len(lefts) > 15
    assert max(lefts) - min(lefts) > 25


def test_color_changes_the_image_alone_and_more_the_stronger_it_is() -> None:
    def change(strength: float) -> float:
        augmentation = custom(color=strength)
        varied = [apply(augmentation) for _ in range(30)]
        for _, mask in varied:
            np.testing.assert_array_equal(mask, labels())
        return float(np.mean([np.abs(image.astype(int) - COLORS[labels()]).mean() for image, _ in varied]))

    assert 1 < change(0.1) < change(0.3) < change(0.9)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_dropout_covers_its_share_and_ignores_what_it_covers(share: float) -> None:
    augmentation, shares = custom(dropout=share), []
    for _ in range(150):
        image, mask = apply(augmentation)
        blank = mask == IGNORED
        assert (image[blank] == 0).all()
        np.testing.assert_array_equal(image[~blank], COLORS[labels()[~blank]])
        np.testing.assert_array_equal(mask[~blank], labels()[~blank])
        shares.append(blank.mean())
    assert np.mean(shares) == pytest.approx(share, abs=0.03)
    assert np.std(shares) > 0


def test_labels_ignored_before_stay_ignored() -> None:
    mask = np.full((HEIGHT, WIDTH), IGNORED, np.uint8)
    varied = seeded("custom", 32, parts=PARTS)(image=COLORS[labels()], mask=mask)["mask"]
    assert (varied == IGNORED).all()
