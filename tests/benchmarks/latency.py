"""Can a latency be trusted? Measured again and again with nothing else running, and among running trials.

``python tests/benchmarks/latency.py`` needs an idle machine. It measures every architecture in turn, several rounds of
them alone, then one round beside one training trial, and one beside two. Each line is one architecture:
``alone_over_least`` has its lone medians over the least of them, ``machine_over_least`` the same of a convolution that
is timed right before and after each, and ``beside_N_over_alone`` its median beside N trials over the median of the
lone ones. The convolution tells the machine from the measurement: a virtual machine whose cores are at times two
threads of one real core, as the host places them, is up to three times as slow then, which no process on it can see.
The last line has the worst of all, and the worst of those pairs of lone medians between which the machine itself
changed by at most 5 %. Trials train on one thread each, as in a search on a machine without a GPU; the measured model
has all cores, as in a search, or ``--threads``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainers.config import ModelConfig, TrialConfig
from trainers.datasets import open_dataset
from trainers.loop import train
from trainers.profiling import Serving, device_name, profile_architecture, time_once

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
MACHINE_RUNS = 100
"""Of the convolution, behind each look at the machine."""
SAME = 1.05
"""The machine counts as the same while the convolution's times differ by no more."""
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


@dataclass(frozen=True)
class Measured:
    """One latency, and how fast the machine was meanwhile."""

    latency_ms: float
    machine_ms: float


def measure(names: Sequence[str]) -> dict[str, Measured]:
    """The latency of each architecture, as a search measures it."""
    return {name: measure_one(ModelConfig(**ARCHITECTURES[name])) for name in names}


def measure_one(model: ModelConfig) -> Measured:
    """One architecture, between two looks at the machine."""
    before_ms = machine_ms()
    profile = profile_architecture(model, NUM_CLASSES, HEIGHT, WIDTH, "cpu", serving=Serving())
    return Measured(profile.latency_ms, (before_ms + machine_ms()) / 2)


def machine_ms() -> float:
    """Median time of a fixed convolution."""
    convolution, images = torch.nn.Conv2d(32, 32, 3, padding=1), torch.randn(1, 32, HEIGHT, WIDTH)

    @torch.inference_mode()
    def run() -> None:
        convolution(images)

    times_ms = [time_once(run, torch.device("cpu")) for _ in range(MACHINE_RUNS)]
    return float(np.median(times_ms))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=len(ARCHITECTURES), help="how many of the list")
    parser.add_argument("--rounds", type=int, default=5, help="lone measurements of each")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the measured model")
    parser.add_argument("--trials", type=int, nargs="*", default=[1, 2], help="numbers of trials beside")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    open_dataset(TRIAL.data)  # Packed here, once.
    names = list(ARCHITECTURES)[: arguments.architectures]
    alone = [measure(names) for _ in range(arguments.rounds)]
    beside: dict[int, dict[str, Measured]] = {}
    for count in arguments.trials:
        with trials_beside(count):
            beside[count] = measure(names)

    about = {"benchmark": "latency", "device": device_name("cpu")}
    for name in names:
        print(json.dumps(about | figures(name, alone, beside)))
    print(json.dumps(about | extremes(names, alone, beside)))


def figures(name: str, alone: Sequence[dict[str, Measured]], beside: dict[int, dict[str, Measured]]) -> dict[str, Any]:
    """The line of one architecture."""
    latencies = np.array([measured[name].latency_ms for measured in alone])
    machine = np.array([measured[name].machine_ms for measured in alone])
    usual_ms = float(np.median(latencies))
    return {
        "architecture": name,
        "alone_ms": round(usual_ms, 3),
        "alone_over_least": (latencies / latencies.min()).round(3).tolist(),
        "machine_over_least": (machine / machine.min()).round(3).tolist(),
    } | {
        f"beside_{count}_over_alone": round(measured[name].latency_ms / usual_ms, 3)
        for count, measured in beside.items()
    }


def extremes(
    names: Sequence[str], alone: Sequence[dict[str, Measured]], beside: dict[int, dict[str, Measured]]
) -> dict[str, Any]:
    """The worst of all lines."""
    pairs = [pair for name in names for pair in itertools.combinations([round_[name] for round_ in alone], 2)]
    same = [pair for pair in pairs if apart(*(each.machine_ms for each in pair)) <= SAME]
    line: dict[str, Any] = {
        "worst_pair": worst(pairs),
        "pairs": len(pairs),
        "worst_pair_on_the_same_machine": worst(same),
        "pairs_on_the_same_machine": len(same),
    }
    for count, measured in beside.items():
        ratios = [measured[name].latency_ms / np.median([each[name].latency_ms for each in alone]) for name in names]
        line[f"beside_{count}_over_alone"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return line


def worst(pairs: Sequence[tuple[Measured, Measured]]) -> float | None:
    """Of the two latencies of a pair, how many times the larger is the smaller; none where there are no pairs."""
    return round(max(apart(*(each.latency_ms for each in pair)) for pair in pairs), 3) if pairs else None


def apart(first: float, second: float) -> float:
    """How many times the larger is the smaller."""
    return max(first, second) / min(first, second)


if __name__ == "__main__":
    main()
