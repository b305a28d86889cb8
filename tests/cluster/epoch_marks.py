"""Loaded into the worker processes of a test's cluster: notes epochs that begin, and those whose checkpoint is kept.

A line of the file is ``<run>/<trial> <epoch> begun|kept <process>``. An epoch takes ``EPOCH_S`` longer than it would,
so that it can be caught in the middle. Nothing is imported before the process trains: most workers never do.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_now: dict[str, str] = {}


def _mark(epoch: int, what: str) -> None:
    if not _now:
        return  # One of several workers of a trial: the first one's marks are those of all.
    with open(os.environ["EPOCHS_TRAINED"], "a") as file:  # noqa: PTH123  # one write, so lines stay whole
        file.write(f"{_now['trial']} {epoch} {what} {os.getpid()}\n")


def _watch(trainable: ModuleType) -> None:
    from trainers.checkpoint import Checkpoints  # noqa: PLC0415
    from trainers.loop import EpochResult, Trial  # noqa: PLC0415

    step, run_epoch, save_last = trainable.TrialActor.step, Trial.run_epoch, Checkpoints.save_last

    def step_of_a_trial(self: Any) -> dict[str, Any]:
        _now["trial"] = trainable.trial_name(self.config)
        result: dict[str, Any] = step(self)
        return result

    def run_epoch_slowly(self: Trial, epoch: int, *rest: Any) -> EpochResult:
        _mark(epoch, "begun")
        time.sleep(float(os.environ["EPOCH_S"]))
        return run_epoch(self, epoch, *rest)

    def save_last_and_say(self: Checkpoints, content: Mapping[str, Any]) -> None:
        save_last(self, content)
        _mark(len(content["history"]), "kept")

    trainable.TrialActor.step = step_of_a_trial
    Trial.run_epoch = run_epoch_slowly  # type: ignore[assignment, method-assign]
    Checkpoints.save_last = save_last_and_say  # type: ignore[method-assign]


class _Finder(MetaPathFinder):
    """Lets Python import ``search.trainable`` as ever, and watches it from then on."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """See MetaPathFinder."""
        if name != "search.trainable":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_watch(module: ModuleType) -> None:
            execute(module)
            _watch(module)

        spec.loader.exec_module = execute_and_watch  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())
