"""The augmentation policies: what they change, and that image and mask change together."""

from __future__ import annotations

import random

import albumentations as A
import numpy as np
import pytest
from numpy.typing import NDArray

from trainers.augmentations import build_augmentation
from trainers.choices import POLICIES
from trainers.settings import ConfigError

HEIGHT, WIDTH = 48, 64
COLORS = np.array([(30, 60, 90), (200, 40, 40), (40, 200, 40), (240, 240, 240)], np.uint8)


def labels() -> NDArray[np.uint8]:
    """Four blocks and one odd corner, so that every flip and turn is told from every other."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, WIDTH // 2 :] += 1
    mask[HEIGHT // 2 :] += 2
    mask[:6, :10] = 3
    return mask


def seeded(policy: str, crop: int | None, seed: int = 0) -> A.Compose:
    augmentation = build_augmentation(policy, crop)
    augmentation.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return augmentation


def apply(augmentation: A.Compose) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    varied = augmentation(image=COLORS[labels()], mask=labels())
    return varied["image"], varied["mask"]


@pytest.mark.parametrize("crop", [None, 32])
@pytest.mark.parametrize("policy", POLICIES)
def test_shape_and_type_are_kept_and_no_label_is_invented(policy: str, crop: int | None) -> None:
    augmentation = seeded(policy, crop)
    shape = (HEIGHT, WIDTH) if crop is None else (crop, crop)
    for _ in range(10):
        image, mask = apply(augmentation)
        assert image.shape == (*shape, 3)
        assert mask.shape == shape
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1, 2, 3}


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


def test_light_also_turns_square_crops() -> None:
    augmentation, halves = seeded("light", 32), np.zeros((32, 32), np.uint8)
    halves[:, 16:] = 1
    varied = [augmentation(image=COLORS[halves], mask=halves)["mask"] for _ in range(40)]
    upright = sum(bool((mask == mask[0]).all()) for mask in varied)
    assert 5 < upright < 35


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
    first, second = seeded(policy, 32, seed=5), seeded(policy, 32, seed=5)
    for _ in range(8):
        for one, other in zip(apply(first), apply(second), strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'strong'"):
        build_augmentation("stron", None)
