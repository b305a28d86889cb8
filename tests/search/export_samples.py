"""A run with a front, a stopped trial and checkpoints, made without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from run_samples import Sample, add_trial, begin_run

from search import columns
from search.run_folder import RunFolder
from trainers.checkpoint import Checkpoints
from trainers.config import TrialConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.loop import train

TINY = TrialConfig().replace(
    {
        "data.height": 48,
        "data.width": 64,
        "data.max_images": 6,
        "model.size": "small",
        "model.base_channels": 4,
        "optimizer.lr": 1e-2,
        "training.epochs": 2,
        "training.batch_size": 4,
        "training.precision": "bf16",
        "training.device": "cpu",
    }
)
"""Of the built-in data set."""
FRONT = {0: (0.6, 9.0), 1: (0.595, 5.0), 2: (0.3, 1.0)}
"""Configuration to mIoU and latency in milliseconds: the best, the knee, which is also the fastest near it, and one."""


def exportable_run(path: Path) -> tuple[RunFolder, SegmentationData]:
    """A run whose best configuration ran under two seeds, and whose trial t0003 was stopped; all have one model."""
    data = open_dataset(TINY.data)
    sample = begin_run(path, classes=[item.name for item in data.classes], height=48, width=64)
    listed = [{"name": item.name, "color": list(item.color)} for item in data.classes]
    about = {"classes": listed, "num_train": len(data.train), "num_val": len(data.val), "notes": list(data.notes)}
    sample.folder.write_data(sample.folder.read_data() | about)
    for index, (miou, latency_ms) in FRONT.items():
        _add(sample, index, columns.COMPLETED, miou=miou, latency_ms=latency_ms)
    _add(sample, 0, columns.COMPLETED, repeat=1, miou=0.604, latency_ms=9.0)
    _add(sample, 3, columns.STOPPED, miou=0.2, latency_ms=5.0, reason="stopped at a rung: not among the best third")
    _add(sample, 4, columns.FAILED, miou=None, latency_ms=5.0, reason="RuntimeError: boom")
    sample.architectures.append(_profile())
    run = sample.run
    _write_checkpoints(run, data, ["t0000", "t0000-1", "t0001"])
    return run, data


def _add(sample: Sample, index: int, state: str, *, latency_ms: float, repeat: int = 0, **values: Any) -> None:
    config = TINY.replace({"training.seed": repeat})
    known: dict[str, Any] = {
        columns.CONFIG: json.dumps(config.to_dict()),
        columns.ARCHITECTURE: json.dumps(config.model.identity()),
        columns.LATENCY_MS: latency_ms,
    }
    add_trial(sample, index, state, 0, epochs=1, repeat=repeat, **known, **values)


def _profile() -> dict[str, Any]:
    conditions = {columns.BATCH: 1, columns.HEIGHT: 48, columns.WIDTH: 64, columns.PRECISION: "fp32"}
    named = {columns.DEVICE: "cpu", columns.DEVICE_NAME: "A <processor> of 2 cores", columns.TORCH_VERSION: "2.15.0"}
    times = {columns.LATENCY_MS: 9.0, columns.LATENCY_P95_MS: 9.5, columns.ARCHITECTURE: _architecture()}
    return conditions | named | times


def _architecture() -> str:
    return json.dumps(TINY.model.identity())


def _write_checkpoints(run: RunFolder, data: SegmentationData, trials: list[str]) -> None:
    """Train once; the others share the weights, under their own configuration."""
    first = run.trials / trials[0]
    run.trials.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    list(train(TINY, data, first))
    torch.set_num_threads(threads)
    kept = torch.load(Checkpoints(first).best, weights_only=True)
    for trial in trials[1:]:
        seed = int(trial.partition("-")[2] or 0)
        config = TINY.replace({"training.seed": seed}).to_dict()
        Checkpoints(run.trials / trial).save_best(kept | {"config": config})
