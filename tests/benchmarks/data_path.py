"""What packing is worth: batches from the packed arrays against decoding the files anew in every epoch.

``python tests/benchmarks/data_path.py [--policy none|light|strong]`` draws scenes of CamVid's size as PNG files and
prints JSON lines. ``packed_over_decoding``: images per second of CPU time of the same batches, augmented alike, once
from the packed arrays and once by decoding and resizing the files of each image when it is its turn; median, least and
most of several epochs in turns. ``memory``: what ``--trials`` processes that all read the whole packed set hold of it
together, against one such process (proportional set size, Linux only).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from turns import spread

from trainers.augmentations import build_augmentation
from trainers.batches import training_batches
from trainers.config import AugmentationConfig, DataConfig
from trainers.datasets import SegmentationData, Split, open_dataset
from trainers.datasets.folder import list_folder
from trainers.datasets.samples import Sample
from trainers.datasets.scenes import list_scenes
from trainers.profiling import cpu_model

BATCH = 8
DRAWN = 960
"""Widest picture that is drawn; wider ones are enlarged from it, since drawing takes longer than all that follows."""


def write_files(root: Path, height: int, width: int, images: int, validation: int = 1) -> None:
    """Scenes as a data set of the layout ``folder``: colour images, and masks of class indices."""
    listing = list_scenes(DataConfig(max_images=images))
    rows = [",".join(map(str, (item.name, *item.color))) for item in listing.classes]
    root.mkdir()
    (root / "classes.csv").write_text("\n".join(["name,red,green,blue", *rows]))
    for split, samples in (("train", listing.train), ("val", listing.val[:validation])):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number, sample in enumerate(samples):
            scale = max(1.0, width / DRAWN)
            image, mask, _ = sample.load(round(height / scale), round(width / scale))
            colours = cv2.resize(image, (width, height))[..., ::-1]
            labels = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), colours)
            cv2.imwrite(str(root / "masks" / split / f"{number}.png"), labels)


@dataclass
class Decoding:
    """A split whose images and masks are decoded when they are asked for, a pair at a time."""

    samples: tuple[Sample, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        self._mask = np.empty(0, np.uint8)
        self.images, self.masks = _Pictures(self._image, self.size), _Pictures(lambda _: self._mask, self.size)

    def __len__(self) -> int:
        return len(self.samples)

    def _image(self, index: int) -> NDArray[np.uint8]:
        image, self._mask, _ = self.samples[index].load(*self.size)
        return image


@dataclass
class _Pictures:
    """In place of an array of a split."""

    read: Callable[[int], NDArray[np.uint8]]
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return 0, *self.size

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.read(index)


def cpu_time_s(split: Split, policy: str, epoch: int) -> float:
    """Of this process and its threads, for one epoch of batches."""
    augmentation = build_augmentation(AugmentationConfig(policy=policy), None)
    started = time.process_time()
    for _ in training_batches(split, augmentation, None, BATCH, 0, epoch):
        pass
    return time.process_time() - started


def compare(config: DataConfig, policy: str, turns: int) -> dict[str, Any]:
    """Both ways in turns, after one epoch each to warm up."""
    packed = open_dataset(config).train
    decoding = cast(Split, Decoding(list_folder(config).train, (config.height, config.width)))
    times = [(cpu_time_s(packed, policy, turn), cpu_time_s(decoding, policy, turn)) for turn in range(turns + 1)][1:]
    return {
        "packed_images_per_cpu_s": round(len(packed) / statistics.median(fast for fast, _ in times), 1),
    } | spread("packed_over_decoding", (slow / fast for fast, slow in times), 2)


def _read_and_wait(config: DataConfig, read: Barrier, measured: Barrier) -> None:
    data: SegmentationData = open_dataset(config)
    int(data.train.images.sum()) + int(data.train.masks.sum())
    read.wait()
    measured.wait()


def shared_memory_mb(config: DataConfig, processes: int) -> float:
    """What so many processes hold of the packed training set, pages that they share counted once."""
    context = multiprocessing.get_context("spawn")
    read, measured = (context.Barrier(processes + 1, timeout=300) for _ in range(2))  # a trial may have died
    trials = [context.Process(target=_read_and_wait, args=(config, read, measured)) for _ in range(processes)]
    for trial in trials:
        trial.start()
    read.wait()
    maps = [item for trial in trials for item in psutil.Process(trial.pid).memory_maps()]
    measured.wait()
    for trial in trials:
        trial.join()
    return float(sum(item.pss for item in maps if "packed" in item.path) / 1e6)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", nargs="+", default=["none", "light", "strong"], choices=("none", "light", "strong"))
    parser.add_argument("--source", type=int, nargs=2, default=(720, 960), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--trials", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    about = {"benchmark": "data_path", "device": cpu_model(), "source": given.source, "size": given.size}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "files"
        write_files(root, given.source[0], given.source[1], given.images)
        height, width = given.size
        config = DataConfig(name="folder", root=str(root), height=height, width=width, cache=folder)
        for policy in given.policy:
            print(json.dumps(about | {"policy": policy} | compare(config, policy, given.turns)), flush=True)
        one, many = shared_memory_mb(config, 1), shared_memory_mb(config, given.trials)
        memory = {"trials": given.trials, "one_mb": round(one, 2), "all_mb": round(many, 2)}
        print(json.dumps(about | memory | {"memory": round(many / one, 2)}))


if __name__ == "__main__":
    main()
