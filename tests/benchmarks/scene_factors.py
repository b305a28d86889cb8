"""Does each factor matter on the built-in scenes? ``python tests/benchmarks/scene_factors.py > scene_factors.json``.

Trains a small reference trial with and without each of augmentation, class weights, context and resolution, over
several seeds, and prints as JSON the validation mIoU of both settings, their difference, and the spread over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from trainers.config import TrialConfig
from trainers.datasets import open_dataset
from trainers.loop import train

Settings = dict[str, Any]

REFERENCE: Settings = {
    "model.architecture": "unet",
    "model.base_channels": 16,
    "loss.class_weights": "inverse_frequency",
    "augmentation.policy": "light",
    "optimizer.lr": 2e-3,
    "schedule.name": "cosine",
    "training.device": "cpu",
}
"""What both settings of a factor share."""

FACTORS: dict[str, tuple[Settings, Settings]] = {
    "augmentation": ({"augmentation.policy": "none"}, {"augmentation.policy": "light"}),
    "class_weights": ({"loss.class_weights": "none"}, {"loss.class_weights": "inverse_frequency"}),
    "context": ({"model.size": "small"}, {"model.size": "original"}),
    "resolution": ({"data.height": 48, "data.width": 64}, {"data.height": 96, "data.width": 128}),
}
"""Without and with each factor. Context: the small UNet halves the image twice, the original four times."""


def measure(settings: Settings, seed: int) -> float:
    """Validation mIoU after the last epoch of one trial on one thread."""
    torch.set_num_threads(1)
    config = TrialConfig().replace(settings | {"training.seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        return list(train(config, open_dataset(config.data), Path(folder)))[-1].miou


def compare(without: list[float], with_: list[float]) -> dict[str, Any]:
    """Difference of the means, the larger standard deviation over seeds, and whether the seeds overlap."""
    return {
        "miou_without": without,
        "miou_with": with_,
        "difference": statistics.mean(with_) - statistics.mean(without),
        "spread": max(statistics.stdev(without), statistics.stdev(with_)),
        "separated": min(with_) > max(without) or max(with_) < min(without),
    }


def main() -> int:
    """Train all settings, print the comparison; 1 if a factor does not stand out of the spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="seeds per setting, at least 2 (default: 3)")
    parser.add_argument("--epochs", type=int, default=12, help="epochs per trial (default: 12)")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time, one thread each (default: 1)")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"), help="default: bf16")
    parser.add_argument("--factors", nargs="*", default=list(FACTORS), choices=list(FACTORS), help="default: all")
    arguments = parser.parse_args()
    shared = REFERENCE | {"training.epochs": arguments.epochs, "training.precision": arguments.precision}
    results = run_all(shared, arguments.factors, range(arguments.seeds), arguments.jobs)
    print(json.dumps({"reference": shared, "seeds": arguments.seeds, "factors": results}, indent=2))
    return 0 if all(abs(result["difference"]) > result["spread"] for result in results.values()) else 1


def run_all(shared: Settings, factors: list[str], seeds: range, jobs: int) -> dict[str, dict[str, Any]]:
    """Comparison per factor; a setting that several factors share is trained once."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending: dict[str, list[Any]] = {}

        def submit(setting: Mapping[str, Any]) -> list[Any]:
            settings = TrialConfig().replace(shared | dict(setting))
            key = json.dumps(settings.to_dict())
            if key not in pending:
                pending[key] = [pool.submit(measure, shared | dict(setting), seed) for seed in seeds]
            return pending[key]

        futures = {factor: [submit(setting) for setting in FACTORS[factor]] for factor in factors}
        return {
            factor: {"settings": FACTORS[factor]} | compare(*([run.result() for run in runs] for runs in pair))
            for factor, pair in futures.items()
        }


if __name__ == "__main__":
    sys.exit(main())
