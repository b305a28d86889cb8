"""Trials that several processes train together: the numbers of one process, and an end for all when one ends."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from trainers import loop
from trainers.augmentations import build_augmentation
from trainers.batches import Batch, evaluation_batches, training_batches
from trainers.config import AugmentationConfig, ModelConfig, TrialConfig
from trainers.datasets import IGNORE_INDEX, Split, open_dataset
from trainers.distributed import (
    LOOPBACK,
    Group,
    Meeting,
    WorkerLostError,
    check_workers,
    join,
    open_meeting,
)
from trainers.loop import EpochResult, TrainingError, Trial, train
from trainers.models import build_model
from trainers.settings import ConfigError

CPU = torch.device("cpu")
TINY = TrialConfig().replace(
    {
        "data.height": 32,
        "data.width": 32,
        "data.max_images": 10,  # the last batch is too small for two workers
        "model.size": "small",
        "model.base_channels": 4,
        "optimizer.lr": 1e-3,
        "schedule.name": "poly",
        "augmentation.policy": "custom",
        "augmentation.dropout": 0.3,  # pixels to be ignored, in every image another number
        "training.epochs": 3,
        "training.batch_size": 4,
        "training.precision": "fp32",
        "training.device": "cpu",
    }
)
TOLERANCE = 1e-5
"""Of losses and metrics, where nothing but the order of sums differs; seen: 4e-7."""
TIMEOUT_S = 5.0

pytestmark = pytest.mark.usefixtures("one_thread")


def without_batch_norm(config: ModelConfig, num_classes: int) -> nn.Module:
    """The model, with nothing in it that depends on the other images of a batch."""
    model = build_model(config, num_classes)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def part_of(  # noqa: PLR0917
    config: TrialConfig, folder: str, epochs: int, plain: bool, meeting: Meeting, rank: int, store: Any = None
) -> list[EpochResult]:
    """What one worker does in a trial."""
    torch.set_num_threads(1)
    group = join(meeting, rank, store=store, timeout_s=60)
    try:
        with mock.patch.object(loop, "build_model", without_batch_norm if plain else build_model):
            return list(islice(train(config, open_dataset(config.data), Path(folder), group), epochs))
    finally:
        group.close()


def part_with_broken_weights(config: TrialConfig, meeting: Meeting, rank: int, store: Any = None) -> None:
    """An epoch in which rank 1 alone meets a NaN."""
    group = join(meeting, rank, store=store, timeout_s=60)
    try:
        trial = Trial(config, open_dataset(config.data), group)
        if rank == 1:
            with torch.no_grad():
                next(trial.model.parameters()).fill_(torch.nan)
        list(trial.run_epoch(1, 0.0))
    finally:
        group.close()


def part_that_ends(config: TrialConfig, how: str, meeting: Meeting, rank: int, store: Any = None) -> None:
    """Two epochs, of which rank 1 takes but one."""
    group = join(meeting, rank, store=store, timeout_s=TIMEOUT_S)
    try:
        trial = Trial(config, open_dataset(config.data), group)
        with group.watched():
            list(trial.run_epoch(1, 0.0))
            if rank == 0:
                list(trial.run_epoch(2, 0.0))
            elif how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                time.sleep(TIMEOUT_S + 1)
    finally:
        group.close()


@pytest.fixture(scope="module")
def other() -> Iterator[ProcessPoolExecutor]:
    """The second process of all trials here but those in which it dies."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def trained_by_two(
    pool: ProcessPoolExecutor, config: TrialConfig, folder: Path, epochs: int = 9, *, plain: bool
) -> list[EpochResult]:
    """Both have the same results; only the first one's folder is used."""
    meeting, store = open_meeting(LOOPBACK, 2, CPU)
    elsewhere = pool.submit(part_of, config, str(folder / "nowhere"), epochs, plain, meeting, 1)
    results = part_of(config, str(folder), epochs, plain, meeting, 0, store)
    assert np.array_equal(numbers(results), numbers(elsewhere.result()), equal_nan=True)
    assert not (folder / "nowhere").exists()
    return results


def trained_by_one(config: TrialConfig, folder: Path, *, plain: bool) -> list[EpochResult]:
    with mock.patch.object(loop, "build_model", without_batch_norm if plain else build_model):
        return list(train(config, open_dataset(config.data), folder))


def numbers(results: list[EpochResult]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """All that does not depend on the clock, one row an epoch."""
    clock = ("epoch_time_s", "train_time_s", "images_per_s", "iou")
    rows = [dataclasses.asdict(result) for result in results]
    return np.array([[value for name, value in row.items() if name not in clock] + row["iou"] for row in rows])


def gap(one: list[EpochResult], two: list[EpochResult]) -> float:
    assert len(one) == len(two)
    return float(np.nanmax(np.abs(numbers(one) - numbers(two))))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.name": "adam"},
        {"loss.class_weights": "inverse_frequency", "loss.name": "sum", "loss.terms.dice": 1.0},
        {"optimizer.name": "sgd", "optimizer.momentum": 0.9, "loss.name": "hinge", "data.crop": 16},
    ],
)
def test_two_workers_have_the_numbers_of_one(
    changes: dict[str, Any], other: ProcessPoolExecutor, tmp_path: Path
) -> None:
    config = TINY.replace(changes)
    one = trained_by_one(config, tmp_path / "one", plain=True)
    two = trained_by_two(other, config, tmp_path / "two", plain=True)
    assert gap(one, two) < TOLERANCE
    assert gap(one[:1] * 3, one) > 100 * TOLERANCE, "epochs differ by far more than the tolerance"


def test_statistics_of_halves_of_a_batch_and_lovasz_change_the_numbers_a_little(
    other: ProcessPoolExecutor, tmp_path: Path
) -> None:
    """What the documentation says does not agree."""
    one = trained_by_one(TINY, tmp_path / "one", plain=False)
    two = trained_by_two(other, TINY, tmp_path / "two", plain=False)
    assert TOLERANCE < gap(one, two) < 0.1
    config = TINY.replace({"loss.name": "lovasz"})
    one = trained_by_one(config, tmp_path / "one_lovasz", plain=True)
    two = trained_by_two(other, config, tmp_path / "two_lovasz", plain=True)
    assert TOLERANCE < gap(one, two) < 0.02


def test_a_trial_goes_on_under_another_number_of_workers(other: ProcessPoolExecutor, tmp_path: Path) -> None:
    whole = trained_by_one(TINY, tmp_path / "whole", plain=True)
    begun = trained_by_two(other, TINY, tmp_path / "trial", 1, plain=True)
    assert gap(whole[:1], begun) < TOLERANCE
    alone = trained_by_one(TINY, tmp_path / "trial", plain=True)
    assert gap(whole, alone) < TOLERANCE
    (tmp_path / "other").mkdir()
    with mock.patch.object(loop, "build_model", without_batch_norm):
        begun = list(islice(train(TINY, open_dataset(TINY.data), tmp_path / "other"), 2))
    again = trained_by_two(other, TINY, tmp_path / "other", plain=True)
    assert np.array_equal(numbers(again[:2]), numbers(begun), equal_nan=True), "read, and not trained again"
    assert gap(whole, again) < TOLERANCE


def test_a_loss_that_is_no_number_ends_all_workers(other: ProcessPoolExecutor) -> None:
    meeting, store = open_meeting(LOOPBACK, 2, CPU)
    elsewhere = other.submit(part_with_broken_weights, TINY, meeting, 1)
    with pytest.raises(TrainingError, match="The loss became nan in epoch 1"):
        part_with_broken_weights(TINY, meeting, 0, store)
    with pytest.raises(TrainingError, match="The loss became nan in epoch 1"):
        elsewhere.result()


def test_a_worker_that_does_not_answer_or_dies_is_a_loss_for_the_others(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(trained_by_one, TINY, tmp_path, plain=False).result()  # Its start and imports take long.
        for how in ("sleeps", "dies"):
            meeting, store = open_meeting(LOOPBACK, 2, CPU)
            elsewhere = pool.submit(part_that_ends, TINY, how, meeting, 1)
            with pytest.raises(WorkerLostError, match="Another worker of the trial is gone or does not answer"):
                part_that_ends(TINY, how, meeting, 0, store)
        with pytest.raises(BrokenProcessPool):
            elsewhere.result()


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("images", [1, 2, 3, 4, 5, 7, 8, 14, 16])
def test_workers_divide_a_batch_without_rest(workers: int, images: int) -> None:
    parts = [Group(rank, workers).part(images) for rank in range(workers)]
    taken = [list(range(images))[part] for part, _ in parts]
    assert [image for part, (_, counts) in zip(taken, parts, strict=True) if counts for image in part] == list(
        range(images)
    )
    assert all(len(part) >= min(images, 2) for part in taken), "batch normalisation needs two"
    busy = sum(counts for _, counts in parts)
    assert max(map(len, taken)) <= max(2, -(-images // busy))


def split_of(count: int) -> Split:
    pictures = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return Split(pictures, pictures[..., 0] % 3, tuple(map(str, range(count))))


def counted(batches: list[Batch]) -> list[tuple[torch.Tensor, ...]]:
    """Images and masks of the batch, but for those that do not count."""
    pairs = [pair for images, masks in batches for pair in zip(images, masks, strict=True)]
    return [pair for pair in pairs if not bool((pair[1] == IGNORE_INDEX).all())]


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_vary_exactly_the_images_that_one_would(workers: int) -> None:
    split, config = split_of(14), AugmentationConfig(policy="strong")

    def batches(group: Group) -> Iterator[Batch]:
        return training_batches(split, build_augmentation(config, 16), 16, 6, 5, 2, group)

    steps = zip(*(batches(Group(rank, workers)) for rank in range(workers)), strict=True)
    for alone, parts in zip(batches(Group()), steps, strict=True):
        whole, divided = counted([alone]), counted(list(parts))
        assert len(whole) == len(divided)
        assert all(
            torch.equal(a, b)
            for pair, other in zip(whole, divided, strict=True)
            for a, b in zip(pair, other, strict=True)
        )


def test_workers_see_the_whole_validation_set_once() -> None:
    split = split_of(9)
    divided = [pair for rank in range(2) for pair in counted(list(evaluation_batches(split, 4, Group(rank, 2))))]
    seen = sorted(image.permute(1, 2, 0).numpy().tobytes() for image, _ in divided)
    assert seen == sorted(image.tobytes() for image in split.images)


@pytest.mark.parametrize(
    ("changes", "workers", "message"),
    [
        ({"training.batch_size": 4}, 3, r"at least 2 images. Use a batch size of at least 6 or at most 2 workers"),
        ({"training.batch_size": 3}, 2, r"Use a batch size of at least 4, or 1 worker"),
        ({"training.sync_batchnorm": True}, 2, r"training.sync_batchnorm=true needs GPUs"),
    ],
)
def test_what_workers_cannot_train_together_is_refused(changes: dict[str, Any], workers: int, message: str) -> None:
    training = TINY.replace(changes).training
    check_workers(training, 1, CPU)
    with pytest.raises(ConfigError, match=message):
        check_workers(training, workers, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices: NCCL takes one process a device")
def test_synchronised_statistics_make_two_workers_agree_with_one(tmp_path: Path) -> None:
    config = TINY.replace({"training.device": "cuda", "training.sync_batchnorm": True})
    one = trained_by_one(config, tmp_path / "one", plain=False)
    meeting, store = open_meeting(LOOPBACK, 2, torch.device("cuda"))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        elsewhere = pool.submit(on_second_device, config, str(tmp_path), meeting)
        two = part_of(config, str(tmp_path / "two"), 9, False, meeting, 0, store)
        assert np.array_equal(numbers(two), numbers(elsewhere.result()), equal_nan=True)
    assert gap(one, two) < 1e-3


def on_second_device(config: TrialConfig, folder: str, meeting: Meeting) -> list[EpochResult]:
    """Rank 1, which sees but one device, as Ray's actors do."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "1"
    return part_of(config, folder, 9, False, meeting, 1)
