"""Loaded into the worker processes of a test's cluster: notes epochs that begin, and those whose checkpoint is kept.

A line of the file is ``<run>/<trial> <epoch> begun|kept <process>``. An epoch takes ``EPOCH_S`` longer than it would,
so that it can be caught in the middle.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from search.trainable import TrialActor, trial_name
from trainers.checkpoint import Checkpoints
from trainers.loop import EpochResult, Trial

_step, _run_epoch, _save_last = TrialActor.step, Trial.run_epoch, Checkpoints.save_last
_now: dict[str, str] = {}


def _mark(epoch: int, what: str) -> None:
    if not _now:
        return  # One of several workers of a trial: the first one's marks are those of all.
    with open(os.environ["EPOCHS_TRAINED"], "a") as file:  # noqa: PTH123  # one write, so lines stay whole
        file.write(f"{_now['trial']} {epoch} {what} {os.getpid()}\n")


def _step_of_a_trial(self: TrialActor) -> dict[str, Any]:
    _now["trial"] = trial_name(self.config)
    return _step(self)


def _run_epoch_slowly(self: Trial, epoch: int, *rest: Any) -> EpochResult:
    _mark(epoch, "begun")
    time.sleep(float(os.environ["EPOCH_S"]))
    return _run_epoch(self, epoch, *rest)


def _save_last_and_say(self: Checkpoints, content: Mapping[str, Any]) -> None:
    _save_last(self, content)
    _mark(len(content["history"]), "kept")


TrialActor.step = _step_of_a_trial  # type: ignore[method-assign]
Trial.run_epoch = _run_epoch_slowly  # type: ignore[assignment, method-assign]
Checkpoints.save_last = _save_last_and_say  # type: ignore[method-assign]
