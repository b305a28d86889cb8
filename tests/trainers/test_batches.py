"""Batches: complete, shuffled, decided by seed and epoch, and without leftover threads."""

from __future__ import annotations

import gc
import threading

import albumentations as A
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainers.augmentations import build_augmentation
from trainers.batches import Batch, count_batches, evaluation_batches, normalise, training_batches
from trainers.choices import POLICIES
from trainers.config import AugmentationConfig
from trainers.datasets import Split


def make_split(count: int) -> Split:
    """Image k holds noise and its number in mask and first channel."""
    images = np.random.default_rng(0).integers(0, 256, (count, 16, 24, 3), np.uint8)
    images[..., 0] = np.arange(count)[:, None, None]
    masks = np.repeat(np.arange(count, dtype=np.uint8), 16 * 24).reshape(count, 16, 24)
    for array in (images, masks):
        array.flags.writeable = False
    return Split(images, masks, tuple(f"{index}" for index in range(count)))


def augmentation_of(policy: str, crop: int | None) -> A.Compose:
    config = AugmentationConfig(policy=policy, scale=0.5, color=0.3, dropout=0.2)
    return build_augmentation(config, crop)


def epoch_of(split: Split, seed: int, epoch: int, policy: str = "light", crop: int | None = None) -> list[Batch]:
    return list(training_batches(split, augmentation_of(policy, crop), crop, 4, seed, epoch))


def numbers(batches: list[Batch]) -> list[int]:
    return [int(mask[0, 0]) for _, masks in batches for mask in masks]


def equal(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_an_epoch_holds_every_image_once_in_random_order() -> None:
    split = make_split(12)
    batches = epoch_of(split, 0, 1)
    assert [len(images) for images, _ in batches] == [4, 4, 4]
    assert sorted(numbers(batches)) == list(range(12))
    assert numbers(batches) != list(range(12))


def test_tensors_are_uint8_channels_last_and_int64() -> None:
    for batches in (epoch_of(make_split(8), 0, 1), list(evaluation_batches(make_split(8), 4))):
        images, masks = batches[0]
        assert images.shape == (4, 3, 16, 24)
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert masks.shape == (4, 16, 24)
        assert masks.dtype == torch.int64


def test_image_and_mask_stay_together() -> None:
    for images, masks in epoch_of(make_split(12), 3, 2):
        assert torch.equal(images[:, 0].long(), masks)


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 4]), (10, [4, 4, 2]), (1, [1]), (4, [4]), (5, [4])])
def test_a_last_batch_of_one_is_left_out_unless_it_is_the_only_one(count: int, sizes: list[int]) -> None:
    assert [len(images) for images, _ in epoch_of(make_split(count), 0, 1)] == sizes
    assert count_batches(count, 4) == len(sizes)


def test_with_a_batch_size_of_one_nothing_is_left_out() -> None:
    batches = list(training_batches(make_split(3), augmentation_of("none", None), None, 1, 0, 1))
    assert sorted(numbers(batches)) == [0, 1, 2]
    assert count_batches(3, 1) == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_seed_and_epoch_decide_everything(policy: str) -> None:
    split = make_split(12)
    augmentation = augmentation_of(policy, 16)
    straight = [list(training_batches(split, augmentation, 16, 4, 7, epoch)) for epoch in (1, 2, 3)]
    assert equal(straight[2], epoch_of(split, 7, 3, policy, 16)), "epoch 3 after a resume is epoch 3"
    assert not equal(straight[1], straight[2])
    assert not equal(straight[2], epoch_of(split, 8, 3, policy, 16))


def test_an_iterator_left_early_does_not_disturb_the_next() -> None:
    split, augmentation = make_split(12), augmentation_of("strong", None)
    next(training_batches(split, augmentation, None, 4, 0, 1))
    assert equal(list(training_batches(split, augmentation, None, 4, 0, 2)), epoch_of(split, 0, 2, "strong"))


def batch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("leave", ["close", "drop", "exhaust"])
def test_no_thread_is_left(leave: str) -> None:
    batches = training_batches(make_split(12), augmentation_of("light", None), None, 4, 0, 1)
    next(batches)
    assert batch_threads()
    if leave == "close":
        batches.close()  # type: ignore[attr-defined]
    elif leave == "exhaust":
        list(batches)
    del batches
    gc.collect()
    assert batch_threads() == []


def test_an_error_in_the_thread_reaches_the_consumer() -> None:
    def refuse(_: NDArray[np.uint8], **__: object) -> NDArray[np.uint8]:
        raise RuntimeError("no such picture")

    batches = training_batches(make_split(8), A.Compose([A.Lambda(image=refuse)]), None, 4, 0, 1)
    with pytest.raises(RuntimeError, match="no such picture"):
        next(batches)
    assert batch_threads() == []


def test_evaluation_is_whole_in_order_and_unchanged() -> None:
    split = make_split(9)
    batches = list(evaluation_batches(split, 4))
    assert [len(images) for images, _ in batches] == [4, 4, 1]
    images = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(images, split.images)
    np.testing.assert_array_equal(torch.cat([masks for _, masks in batches]).numpy(), split.masks)


def test_normalise_removes_the_imagenet_statistics() -> None:
    pixel = torch.tensor([0, 255, 127], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [-0.485 / 0.229, (1 - 0.456) / 0.224, (127 / 255 - 0.406) / 0.225]
    normal = normalise(pixel)
    assert normal.dtype == torch.float32
    assert normal.flatten().tolist() == pytest.approx(expected, abs=1e-5)
    assert pixel.flatten().tolist() == [0, 255, 127]
