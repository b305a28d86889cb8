"""The built-in scenes: the same bytes everywhere, and what makes them hard is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trainers.config import DataConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.datasets.scenes import BACKGROUND, BUILDING, GRASS, POOL, ROAD, VEHICLE, WATER, Scene

GOLDEN = "8e8d180aad8b10535e6d7566aa1f1aab6766438f820f1bd38f5978a497d97cab"
"""SHA-256 of three scenes: if they change on purpose, raise ``GENERATOR_VERSION`` and pin the new value."""


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
    shares = scenes.class_counts().pixels / scenes.class_counts().pixels.sum()
    assert (shares > 0).all()
    assert shares[VEHICLE] < 0.006
    assert shares[POOL] < 0.006
    assert shares.argmax() == GRASS
    assert shares[BUILDING] > 0.02


def shared_colours(data: SegmentationData, first: int, second: int) -> float:
    """Overlap of the colour histograms of two classes, in [0, 1], with 16 steps a channel."""
    codes = (data.train.images // 16).astype(np.int64) @ np.array([256, 16, 1])
    counts = [np.bincount(codes[data.train.masks == label], minlength=4096) for label in (first, second)]
    shares = [count / count.sum() for count in counts]
    return float(np.minimum(*shares).sum())


def test_colour_alone_does_not_tell_alike_classes_apart(scenes: SegmentationData) -> None:
    assert shared_colours(scenes, ROAD, WATER) > 0.4
    assert shared_colours(scenes, ROAD, BACKGROUND) > 0.4
    assert shared_colours(scenes, POOL, WATER) > 0.1
    assert shared_colours(scenes, GRASS, WATER) < 0.15


def test_validation_flights_differ_in_light(scenes: SegmentationData) -> None:
    """Grass, the commonest surface, varies more between flights of the validation split."""
    means = [
        np.array([image[mask == GRASS].mean(0) for image, mask in zip(split.images, split.masks, strict=True)])
        for split in (scenes.train, scenes.val)
    ]
    assert means[1].std(0).mean() > 1.3 * means[0].std(0).mean()


def test_a_higher_resolution_shows_the_same_scene_in_more_detail() -> None:
    (small_image, small_mask), (large_image, large_mask) = draw("train", 2), draw("train", 2, 192, 256)
    assert (large_mask[::2, ::2] == small_mask).mean() > 0.93
    enlarged = small_image.repeat(2, 0).repeat(2, 1)
    detail, blocks = (np.abs(np.diff(image.astype(int), axis=1)).mean() for image in (large_image, enlarged))
    assert detail > 1.2 * blocks


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 47), (64, 160), (128, 48)])
def test_any_size_can_be_drawn(height: int, width: int) -> None:
    image, mask = draw("val", 1, height, width)
    assert image.shape == (height, width, 3)
    assert mask.shape == (height, width)
    assert mask.max() < 8


def test_the_seed_of_the_split_makes_other_pictures(tmp_path: Path) -> None:
    first, second = (
        open_dataset(DataConfig(max_images=2, split_seed=seed, height=24, width=32, cache=str(tmp_path)))
        for seed in (0, 1)
    )
    assert not np.array_equal(first.train.images, second.train.images)
    assert first.train.names == second.train.names == ("train/000", "train/001")
    assert first.notes == ("validation: scenes of other flights",)
