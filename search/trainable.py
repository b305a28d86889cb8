"""The Ray Tune trainable: an actor that trains one trial after the other, an epoch a step.

It needs none of Ray's checkpoints: the trial's own folder says where to go on, on any node that sees it.
"""

from __future__ import annotations

import dataclasses
import gc
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.result import DONE

from search import columns
from trainers.config import DataConfig, TrialConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.loop import EpochResult, resolve_device, train
from trainers.models import check_model
from trainers.profiling import device_name

TRIAL_ID, CONFIG, FOLDER, THREADS = "id", "trial", "folder", "threads"
"""Keys of the Tune configuration of a trial."""
FAILURE, TRACEBACK = "failure", "traceback"
"""Keys of the result of a trial that failed."""


def trial_name(config: Mapping[str, Any]) -> str:
    """What the trial of a Tune configuration is called beyond its run: ``<run>/<trial>``."""
    return f"{Path(config[FOLDER]).parents[1].name}/{config[TRIAL_ID]}"


class TrialActor(tune.Trainable):
    """Trains the trial of its configuration; reused for the next trial, so that torch is imported once."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune in a new process."""
        self._datasets: dict[DataConfig, SegmentationData] = {}
        self._epochs: Iterator[EpochResult] | None = None
        torch.set_num_threads(config[THREADS])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune before the next trial: let go of the last one's model and memory."""
        self._forget()
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch. A failure is a result, not an exception, so that the actor lives on."""
        try:
            return self._next_epoch()
        except torch.AcceleratorError:
            raise  # The GPU context is gone, and with it this process.
        except Exception as error:
            self._forget()
            reason = f"{type(error).__name__}: {error}"
            return {FAILURE: reason, TRACEBACK: traceback.format_exc(), columns.EPOCH: 0, DONE: True}

    def cleanup(self) -> None:
        """Called by Tune when the actor ends."""
        self._forget()

    def _next_epoch(self) -> dict[str, Any]:
        trial = TrialConfig.from_dict(self.config[CONFIG])
        data = self._open(trial.data)
        if self._epochs is None:
            check_model(trial.model)
            self._epochs = train(trial, data, Path(self.config[FOLDER]))
        result = next(self._epochs)
        metrics = dataclasses.asdict(result)
        iou = metrics.pop("iou")
        metrics |= {columns.iou_column(item.name): value for item, value in zip(data.classes, iou, strict=True)}
        device = device_name(resolve_device(trial.training.device))
        return metrics | {columns.DEVICE: device, DONE: result.epoch >= trial.training.epochs}

    def _open(self, config: DataConfig) -> SegmentationData:
        if config not in self._datasets:
            self._datasets = {config: open_dataset(config)}
        return self._datasets[config]

    def _forget(self) -> None:
        self._epochs = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
