"""Can a latency be trusted? Measured twice with nothing else running, and as it would be among running trials.

``python tests/benchmarks/latency.py`` needs an idle machine. It measures every architecture in turn, first alone, then
beside one training trial, beside two, and alone again, so that the two lone measurements lie as far apart as any. Each
line is one architecture: ``again_over_first`` is the ratio of its two lone medians, ``beside_N_over_alone`` that of its
median beside N trials to the mean of those. The last line has the extremes over all. Trials train on one thread each,
as in a search on a machine without a GPU; the measured model has all cores, as in a search.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from trainers.config import ModelConfig, TrialConfig
from trainers.datasets import open_dataset
from trainers.loop import train
from trainers.profiling import Serving, device_name, profile_architecture

HEIGHT, WIDTH, NUM_CLASSES = 96, 128, 8
DEEPLAB = {"architecture": "deeplab", "decoder_channels": 64, "output_stride": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "unet small 8": {"size": "small", "base_channels": 8},
    "unet original 64": {"base_channels": 64},
    "deeplab mobilenet_v3_small": {**DEEPLAB, "backbone": "mobilenet_v3_small", "aspp": False},
    "deeplab vgg11_bn": {"architecture": "deeplab", "backbone": "vgg11_bn"},
    "unet original 16": {"base_channels": 16},
    "deeplab resnet18": {"architecture": "deeplab", "backbone": "resnet18"},
}
"""Small and large ones of the spaces ``quickstart`` and ``backbones``, taking turns."""
TRIAL = TrialConfig().replace(
    {
        "model.base_channels": 16,
        "training.batch_size": 8,
        "training.epochs": 100_000,
        "training.precision": "fp32",
        "training.device": "cpu",
        "data.max_images": 40,
    }
)
"""What trains beside the measurements, until it is ended."""
START_S = 300.0
"""Longest wait for the first epochs of the trials beside."""


def train_on(begun: Barrier, folder: Path) -> None:
    """Train :data:`TRIAL` on one thread; ``begun`` opens once every process has its first epoch behind it."""
    torch.set_num_threads(1)
    for result in train(TRIAL, open_dataset(TRIAL.data), folder):
        if result.epoch == 1:
            begun.wait(START_S)


@contextmanager
def trials_beside(count: int) -> Iterator[None]:
    """``count`` processes that train, all of them past their first epoch."""
    context = get_context("spawn")
    begun = context.Barrier(count + 1)
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=train_on, args=(begun, Path(folder) / str(i))) for i in range(count)]
        for process in processes:
            process.start()
        try:
            begun.wait(START_S)
            yield
            dead = sum(not process.is_alive() for process in processes)
            assert not dead, f"{dead} trials ended while latency was measured beside them"
        finally:
            for process in processes:
                process.kill()
                process.join()


def medians_ms(names: Sequence[str]) -> dict[str, float]:
    """The latency of each architecture, as a search measures it."""
    return {
        name: profile_architecture(
            ModelConfig(**ARCHITECTURES[name]), NUM_CLASSES, HEIGHT, WIDTH, "cpu", serving=Serving()
        ).latency_ms
        for name in names
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", type=int, default=len(ARCHITECTURES), help="how many of the list")
    parser.add_argument("--trials", type=int, nargs="*", default=[1, 2], help="numbers of trials beside")
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    open_dataset(TRIAL.data)  # Packed here, once.
    names = list(ARCHITECTURES)[: arguments.architectures]
    alone = [medians_ms(names)]
    beside: dict[int, dict[str, float]] = {}
    for count in arguments.trials:
        with trials_beside(count):
            beside[count] = medians_ms(names)
    alone.append(medians_ms(names))

    lines = [figures(name, alone, beside) for name in names]
    about = {"benchmark": "latency", "device": device_name("cpu")}
    for line in lines:
        print(json.dumps(about | line))
    ratios = [key for key in lines[0] if "_over_" in key]
    print(
        json.dumps(
            about | {key: [min(line[key] for line in lines), max(line[key] for line in lines)] for key in ratios}
        )
    )


def figures(name: str, alone: Sequence[dict[str, float]], beside: dict[int, dict[str, float]]) -> dict[str, Any]:
    """The line of one architecture."""
    first_ms, again_ms = (medians[name] for medians in alone)
    both_ms = (first_ms + again_ms) / 2
    ratios = {f"beside_{count}_over_alone": round(medians[name] / both_ms, 3) for count, medians in beside.items()}
    return {
        "architecture": name,
        "alone_ms": round(both_ms, 3),
        "again_over_first": round(again_ms / first_ms, 3),
    } | ratios


if __name__ == "__main__":
    main()
