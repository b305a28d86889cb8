"""The built-in scenes: the same bytes everywhere, and what makes them hard is there."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from trainers.config import DataConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.datasets.scenes import BUILDING, GRASS, POOL, VEHICLE, WATER, Scene

GOLDEN = "to be measured"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SegmentationData:
    return open_dataset(DataConfig(max_images=60, cache=str(tmp_path_factory.mktemp("cache"))))


def draw(split: str, number: int, height: int = 96, width: int = 128, seed: int = 0) -> tuple[NDArray[np.uint8], ...]:
    image, mask, remark = Scene(seed, split, number).load(height, width)
    assert remark is None
    return image, mask


def test_the_bytes_are_pinned() -> None:
    digest = hashlib.sha256()
    for split, number, height, width in (("train", 0, 96, 128), ("train", 7, 64, 64), ("val", 3, 50, 90)):
        for array in draw(split, number, height, width):
            digest.update(array.tobytes())
    assert digest.hexdigest() == GOLDEN


def test_seed_split_and_number_each_make_another_picture() -> None:
    pictures = [draw("train", 0), draw("train", 1), draw("val", 0), draw("train", 0, seed=1)]
    assert len({picture[0].tobytes() for picture in pictures}) == 4


def test_rare_classes_are_rare_and_grass_dominates(scenes: SegmentationData) -> None:
    shares = scenes.class_pixels() / scenes.class_pixels().sum()
    assert (shares > 0).all()
    assert shares[VEHICLE] < 0.006
    assert shares[POOL] < 0.006
    assert shares.argmax() == GRASS
    assert shares[BUILDING] > 0.02


def test_asphalt_and_water_share_colours(scenes: SegmentationData) -> None:
    """By colour alone, muddy water and road overlap far more than grass and water do."""
    ...


def test_validation_flights_differ_in_light(scenes: SegmentationData) -> None:
    """Grass, the commonest surface, is not the same colour in both splits."""
    means = [
        np.array([image[mask == GRASS].mean(0) for image, mask in zip(split.images, split.masks, strict=True)])
        for split in (scenes.train, scenes.val)
    ]
    assert means[1].std(0).mean() > 1.3 * means[0].std(0).mean()


def test_a_higher_resolution_shows_the_same_scene_in_more_detail() -> None:
    small, large = draw("train", 2), draw("train", 2, 192, 256)
    agree = (large[1][::2, ::2] == small[1]).mean()
    assert agree > 0.93
    detail = np.abs(np.diff(large[0].astype(int), axis=1)).mean()
    enlarged = np.repeat(np.repeat(small[0], 2, 0), 2, 1).astype(int)
    assert detail > np.abs(np.diff(enlarged, axis=1)).mean()
    assert WATER < len(np.unique(large[1])) + WATER
