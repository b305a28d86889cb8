"""The Ray Tune trainable: an actor that trains one trial after the other, an epoch a step.

It needs none of Ray's checkpoints: the trial's own folder says where to go on, on any node that sees it; or else the
run's storage, on any node that reaches it.
"""

from __future__ import annotations

import dataclasses
import errno
import platform
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.result import DONE

from search import columns
from search.stored_checkpoints import StoredCheckpoints
from search.workers import Crew
from trainers.checkpoint import UnwritableError
from trainers.config import TrialConfig
from trainers.distributed import WorkerLostError
from trainers.loop import resolve_device
from trainers.profiling import device_name

TRIAL_ID, CONFIG, FOLDER = "id", "trial", "folder"
"""Keys of the Tune configuration of a trial."""
WORKERS, THREADS, GPUS = "workers", "threads", "gpus"
"""Keys of the same: how many workers the trial has, and each worker's cores and part of a GPU."""
STORAGE = "storage"
"""Key of the same: URI of the run's folder in its storage; None where checkpoints lie in the trial's folder."""
FAILURE, TRACEBACK = "failure", "traceback"
"""Keys of the result of a trial that failed."""
WAITING = "waiting"
"""Key of the result of a trial that cannot be kept on disk right now: why, for people."""
RETRY_S = 5.0
"""Pause before an epoch that could not be kept is trained again."""
DISK_PATIENCE_S = 1800.0
"""How long a trial waits for its disk before it fails."""


def trial_name(config: Mapping[str, Any]) -> str:
    """What the trial of a Tune configuration is called beyond its run: ``<run>/<trial>``."""
    return f"{Path(config[FOLDER]).parents[1].name}/{config[TRIAL_ID]}"


class TrialActor(tune.Trainable):
    """Trains the trial of its configuration; reused for the next trial, so that torch is imported once."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune in a new process."""
        self._crew = Crew(config[THREADS])
        self._stored: StoredCheckpoints | None = None
        self._waiting_since: float | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune before the next trial: let go of the last one's model and memory."""
        self._forget()
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch. A failure is a result, not an exception, so that the actor lives on."""
        try:
            result = self._next_epoch()
            self._waiting_since = None
            return result
        except (torch.AcceleratorError, WorkerLostError):
            raise  # A GPU context is gone, or a worker, and with it this process: a new one goes on.
        except Exception as error:
            if isinstance(error, UnwritableError) and self._has_patience():
                return self._wait(error)
            written = traceback.format_exc()
            self._forget()
            reason = f"{type(error).__name__}: {error}"
            return {FAILURE: reason, TRACEBACK: written, columns.EPOCH: 0, DONE: True}

    def _has_patience(self) -> bool:
        """Whether the disk may still come back; the wait begins with the first question."""
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        return time.monotonic() - self._waiting_since < DISK_PATIENCE_S

    def _wait(self, error: UnwritableError) -> dict[str, Any]:
        """The epoch is lost, not the trial: it goes on from its last checkpoint when the disk takes one again."""
        self._forget()
        time.sleep(RETRY_S)
        why = f"{error.filename} cannot be written: {error.strerror} (on {platform.node()})"
        return {WAITING: why, columns.EPOCH: 0}

    def cleanup(self) -> None:
        """Called by Tune when the actor ends."""
        self._crew.dismiss()
        self._forget()

    def _next_epoch(self) -> dict[str, Any]:
        if not self._crew.begun:
            self._crew.begin(self.config[CONFIG], self._folder(), self.config[WORKERS], trial_name(self.config))
        result = self._crew.next_epoch()
        trial = TrialConfig.from_dict(self.config[CONFIG])
        if self._stored is not None:
            self._stored.put(last_epoch=result.epoch >= trial.training.epochs)
        classes = self._crew.open(trial.data).classes
        metrics = dataclasses.asdict(result)
        iou = metrics.pop("iou")
        metrics |= {columns.iou_column(item.name): value for item, value in zip(classes, iou, strict=True)}
        device = device_name(resolve_device(trial.training.device))
        return metrics | {columns.DEVICE: device, DONE: result.epoch >= trial.training.epochs}

    def _folder(self) -> str:
        """Where the trial's checkpoints lie on this node; with what an earlier process of it stored."""
        storage = self.config[STORAGE]
        if storage is None:
            folder = Path(self.config[FOLDER])
            if not (folder / "config.yaml").exists():  # Written before the trial was handed out.
                raise UnwritableError(errno.ENOENT, "this node does not see it", str(folder))
            return str(folder)
        self._stored = StoredCheckpoints(storage, self.config[TRIAL_ID])
        self._stored.fetch_last(self.config[CONFIG])
        return str(self._stored.folder)

    def _forget(self) -> None:
        self._crew.forget()
        if self._stored is not None:
            self._stored.close()
            self._stored = None
