"""From packed arrays to batches of tensors, in the trial's own process: reading them costs less than handing them over.

Images stay uint8 up to the device, a quarter of the bytes to move; :func:`normalise` makes them floats there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.datasets import IGNORE_INDEX, Split
from trainers.distributed import ALONE, Group

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of the RGB channels in [0, 1]: what torchvision's pretrained backbones expect."""

Batch = tuple[Tensor, Tensor]
Item = TypeVar("Item")


def training_batches(  # noqa: PLR0917
    split: Split,
    augmentation: A.Compose,
    crop: int | None,
    batch_size: int,
    seed: int,
    epoch: int,
    group: Group = ALONE,
    *,
    pinned: bool = False,
) -> Iterator[Batch]:
    """Shuffled, augmented batches of one epoch, decided by ``(seed, epoch)`` alone, or a worker's part of each.

    So an epoch is the same whether or not training was resumed before it. How an image is varied depends on its place
    in the epoch and not on the images before it, so it is the same with any number of workers. A last batch of a
    single image is left out if there are others, since batch normalisation needs two values a channel; see
    :func:`count_batches`. One batch is made ahead in a thread, which ends when the iterator is exhausted or closed.

    Args:
        split: what to read.
        augmentation: from :func:`trainers.augmentations.build_augmentation`; used by this iterator only.
        crop: the crop side that ``augmentation`` was built with.
        batch_size: images a batch, of all workers together.
        seed: the trial's seed.
        epoch: number of the epoch.
        group: the workers that divide each batch.
        pinned: in memory that a GPU copies from while it computes.

    Yields:
        Images, uint8 (b, 3, h, w) in channels-last memory, and masks, int64 (b, h, w).
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(split))
    starts = range(0, count_batches(len(split), batch_size) * batch_size, batch_size)

    def batch_at(start: int) -> Batch:
        places, counts = _part(range(start, min(start + batch_size, len(order))), group)
        chosen = [(order[place], (seed, epoch, 1 + place)) for place in places]
        batch = _augmented(split, chosen, augmentation, crop)
        images, masks = batch if counts else _ignored(batch)
        return (images.pin_memory(), masks.pin_memory()) if pinned else (images, masks)

    return _one_ahead(map(batch_at, starts))


def evaluation_batches(split: Split, batch_size: int, group: Group = ALONE) -> Iterator[Batch]:
    """All images in order, whole and unchanged, or a worker's part of each batch; tensors as of training."""
    for start in range(0, len(split), batch_size):
        places, counts = _part(range(start, min(start + batch_size, len(split))), group)
        part = slice(places.start, places.stop)
        batch = _tensors(np.array(split.images[part]), split.masks[part])
        yield batch if counts else _ignored(batch)


def _part(places: range, group: Group) -> tuple[range, bool]:
    part, counts = group.part(len(places))
    return places[part], counts


def _ignored(batch: Batch) -> Batch:
    return batch[0], torch.full_like(batch[1], IGNORE_INDEX)


def count_batches(images: int, batch_size: int) -> int:
    """Optimizer steps of one epoch: a last batch of one image counts only if it is the only one."""
    full, rest = divmod(images, batch_size)
    return full + (rest > 1 or (rest == 1 and full == 0))


def normalise(images: Tensor) -> Tensor:
    """Float32 images with ImageNet's mean and deviation removed, on the device where the uint8 ``images`` are."""
    mean, std = _channel_statistics(images.device)
    return images.to(torch.float32).sub_(mean).div_(std)


@cache
def _channel_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        mean, std = (
            255 * torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
    return mean, std


def _augmented(
    split: Split, chosen: Sequence[tuple[int, tuple[int, int, int]]], augmentation: A.Compose, crop: int | None
) -> Batch:
    """The batch of images ``chosen``: the index of each, and the seed of how it is varied."""
    height, width = (crop, crop) if crop is not None else split.masks.shape[1:]
    images = np.empty((len(chosen), height, width, 3), np.uint8)
    masks = np.empty((len(chosen), height, width), np.uint8)
    for row, (index, seed) in enumerate(chosen):
        generator = np.random.default_rng(seed)
        # Not set_random_seed: that gives every transform the same stream, and both flips would always come together.
        augmentation.set_random_state(generator, random.Random(int(generator.integers(2**31))))
        varied = augmentation(image=np.array(split.images[index]), mask=np.array(split.masks[index]))
        images[row], masks[row] = varied["image"], varied["mask"]
    return _tensors(images, masks)


def _tensors(images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> Batch:
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks.astype(np.int64))


def _one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item
