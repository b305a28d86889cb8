"""From packed arrays to batches of tensors, in the trial's own process: reading them costs less than handing them over.

Images stay uint8 up to the device, a quarter of the bytes to move; :func:`normalise` makes them floats there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.datasets import Split

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of the RGB channels in [0, 1]: what torchvision's pretrained backbones expect."""

Batch = tuple[Tensor, Tensor]
Item = TypeVar("Item")


def training_batches(  # noqa: PLR0917
    split: Split, augmentation: A.Compose, crop: int | None, batch_size: int, seed: int, epoch: int
) -> Iterator[Batch]:
    """Shuffled, augmented batches of one epoch, decided by ``(seed, epoch)`` alone.

    So an epoch is the same whether or not training was resumed before it. A last batch of a single image is left
    out if there are others, since batch normalisation needs two values a channel; see :func:`count_batches`. One
    batch is made ahead in a thread, which ends when the iterator is exhausted or closed.

    Args:
        split: what to read.
        augmentation: from :func:`trainers.augmentations.build_augmentation`; used by this iterator only.
        crop: the crop side that ``augmentation`` was built with.
        batch_size: images a batch.
        seed: the trial's seed.
        epoch: number of the epoch.

    Yields:
        Images, uint8 (b, 3, h, w) in channels-last memory, and masks, int64 (b, h, w).
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(split))
    # Not set_random_seed: that gives every transform the same stream, and both flips would always come together.
    augmentation.set_random_state(generator, random.Random(int(generator.integers(2**31))))
    starts = range(0, count_batches(len(split), batch_size) * batch_size, batch_size)
    chosen = (order[start : start + batch_size] for start in starts)
    return _one_ahead(_augmented(split, indices, augmentation, crop) for indices in chosen)


def evaluation_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """All images in order, whole and unchanged; tensors as those of :func:`training_batches`."""
    for start in range(0, len(split), batch_size):
        part = slice(start, start + batch_size)
        yield _tensors(np.array(split.images[part]), split.masks[part])


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


def _augmented(split: Split, indices: NDArray[np.intp], augmentation: A.Compose, crop: int | None) -> Batch:
    height, width = (crop, crop) if crop is not None else split.masks.shape[1:]
    images = np.empty((len(indices), height, width, 3), np.uint8)
    masks = np.empty((len(indices), height, width), np.uint8)
    for row, index in enumerate(indices):
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
