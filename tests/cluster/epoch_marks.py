"""Loaded into the worker processes of a test's cluster: notes epochs that begin, and those whose checkpoint is kept.

A line of the file is ``<run>/<trial> <epoch> begun|kept <process>``. An epoch has begun once it was asked for: steps
that a trial takes before that, until the epoch before is kept, do not count. It takes ``EPOCH_S`` longer than it would,
so that it can be caught in the middle. Nothing is imported before the process trains: most workers never do.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_now: dict[str, Any] = {}
"""Of the trial that this process trains: its name, the last epoch that was reported, and one that runs ahead of it."""


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
        trial = trainable.trial_name(self.config)
        if _now.get("trial") != trial:
            _now.update(trial=trial, reported=0, ahead=None)
        if _now["ahead"] is not None:
            _mark(_now["ahead"], "begun")
            _now["ahead"] = None
        result: dict[str, Any] = step(self)
        _now["reported"] = result["epoch"]
        if not result["epoch"]:
            _now["ahead"] = None  # It failed, or waits for its disk, and what ran ahead is forgotten.
        return result

    def run_epoch_slowly(self: Trial, epoch: int, *rest: Any) -> Iterator[EpochResult | None]:
        if _now.get("reported") == epoch - 1:
            _mark(epoch, "begun")
        elif _now:
            _now["ahead"] = epoch
        end = time.monotonic() + float(os.environ["EPOCH_S"])
        while (left_s := end - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.02))
            yield None
        yield from run_epoch(self, epoch, *rest)

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
