"""The processes that train one trial: the trial's own, and the workers it has beside it in the bundles reserved for it.

Ray Tune reserves the bundles of a trial as a whole before it starts the trial's actor, so no trial waits with half of
them. That actor is rank 0. It starts one more actor a bundle, wherever Ray put it, and calls the same on all: begin,
one epoch, forget. Nobody calls the next epoch of a trial that is stopped. Workers end with the actor that started them.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from search.resources import Share
from spaces import Space
from trainers.config import DataConfig, TrialConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.distributed import (
    ALONE,
    LOOPBACK,
    TIMEOUT_S,
    Group,
    Meeting,
    WorkerLostError,
    check_workers,
    join,
    open_meeting,
)
from trainers.loop import EpochResult, resolve_device, train
from trainers.models import check_model
from trainers.settings import ConfigError

_DIVIDED = ("training.batch_size", "training.sync_batchnorm")
GRACE_S = 60.0
"""How long a trial that lost a worker waits to hear of what that died: Ray takes half a minute to miss a node."""


class Worker:
    """What one process does in the trials it trains one after the other; its data set stays open between them."""

    def __init__(self, rank: int, threads: int) -> None:
        torch.set_num_threads(threads)
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides the GPUs of a machine from nobody who asked for none.
        self._rank = rank
        self._datasets: dict[DataConfig, SegmentationData] = {}
        self._group = ALONE
        self._store: Any = None
        self._epochs: Iterator[EpochResult] | None = None

    def prepare(self, trial: Mapping[str, Any]) -> str:
        """Open the data of a trial, which may have to be packed on this node first; returns the node's id."""
        config = TrialConfig.from_dict(trial)
        check_model(config.model)
        self.open(config.data)
        return str(ray.get_runtime_context().get_node_id())

    def open(self, config: DataConfig) -> SegmentationData:
        """The data set, opened once."""
        if config not in self._datasets:
            self._datasets = {config: open_dataset(config)}
        return self._datasets[config]

    def invite(self, trial: Mapping[str, Any], size: int, one_node: bool) -> Meeting:
        """Rank 0: where ``size`` workers are to meet; beyond this node only if it must be."""
        address = LOOPBACK if one_node else _own_address()
        device = resolve_device(TrialConfig.from_dict(trial).training.device)
        meeting, self._store = open_meeting(address, size, device)
        return meeting

    def begin(self, trial: Mapping[str, Any], folder: str, meeting: Meeting | None) -> None:
        """Make ready for the first epoch; returns once all workers are there."""
        config = TrialConfig.from_dict(trial)
        if meeting is not None:
            address = LOOPBACK if meeting.host == LOOPBACK else _own_address()
            self._group = join(meeting, self._rank, address, self._store)
        self._epochs = train(config, self.open(config.data), Path(folder), self._group)

    def next_epoch(self) -> EpochResult:
        """Train the next epoch with the others."""
        assert self._epochs is not None, "begin comes first"
        return next(self._epochs)

    def forget(self) -> None:
        """Let go of the trial and its memory."""
        self._epochs = None
        gc.collect()
        self._group.close()
        self._group, self._store = ALONE, None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def group(self) -> Group:
        """The workers of the trial."""
        return self._group


def _own_address() -> str:
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class Crew:
    """All workers of the trials of one actor, that actor's own among them."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._first = Worker(0, threads)
        self._others: list[Any] = []
        self._name = ""
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether there is a trial to train an epoch of."""
        return self._begun

    def open(self, config: DataConfig) -> SegmentationData:
        """The data set as rank 0 sees it."""
        return self._first.open(config)

    def begin(self, trial: Mapping[str, Any], folder: str, size: int, name: str) -> None:
        """Get ``size`` workers ready for a trial; ``name`` is what Ray calls its tasks."""
        if len(self._others) != size - 1:
            self.dismiss()
            self._others = [_start(rank, self._threads) for rank in range(1, size)]
        self._name = name
        nodes = self._together("prepare", trial, patience_s=None)
        meeting = self._first.invite(trial, size, len(set(nodes)) == 1) if size > 1 else None
        self._together("begin", trial, folder, meeting)
        self._begun = True

    def next_epoch(self) -> EpochResult:
        """Train the next epoch.

        Raises:
            WorkerLostError: a worker died or does not answer.
            Exception: what the first worker that failed raised.
        """
        result: EpochResult = self._together("next_epoch")[0]
        return result

    def forget(self) -> None:
        """Let go of the trial and its memory, on all workers."""
        self._begun = False
        try:
            self._together("forget")
        except WorkerLostError:
            self._first.forget()

    def dismiss(self) -> None:
        """End the processes of the other workers, and with them their memory and their part of any wait."""
        for worker in self._others:
            ray.kill(worker)
        self._others = []

    def _together(self, method: str, *arguments: Any, patience_s: float | None = TIMEOUT_S) -> list[Any]:
        """Call a method on all workers at once; the first that fails ends it for all, and the other workers too.

        Returns:
            What each returned, in the order of ranks.
        """
        calls = [getattr(worker, method).options(name=self._name).remote(*arguments) for worker in self._others]
        failures: list[Exception] = []
        watch = threading.Thread(target=self._watch, args=(calls, failures), daemon=True)
        watch.start()
        failure: Exception | None = None
        try:
            own = getattr(self._first, method)(*arguments)
            watch.join(patience_s)
            if watch.is_alive():
                raise WorkerLostError(f"A worker of the trial did not answer for {patience_s:.0f} s.")
        except (WorkerLostError, torch.AcceleratorError) as error:
            watch.join(GRACE_S)  # What rank 0 says of a loss, and of a GPU after one, is only the consequence.
            failure = failures[0] if failures else error
        except Exception as error:
            failure = error
        if failure is None and failures:
            failure = failures[0]
        if failure is not None:
            self.dismiss()
            raise failure
        return [own, *ray.get(calls)]

    def _watch(self, calls: list[Any], failures: list[Exception]) -> None:
        """Wait for the calls; at the first that fails end the workers, which ends what rank 0 waits for."""
        pending = calls
        while pending:
            done, pending = ray.wait(pending)
            try:
                ray.get(done)
            except RayTaskError as error:
                error.cause.__cause__ = error  # with the traceback over there
                failures.append(error.cause)
            except RayError as error:
                failures.append(WorkerLostError(f"A worker of the trial died: {error}"))
            if failures:
                self.dismiss()
                self._first.group.abort()
                return


def check_together(space: Space, base: TrialConfig, share: Share) -> None:
    """Refuse a search with trials that the workers of ``share`` cannot train together, before any of them starts.

    Raises:
        ConfigError: as :func:`~trainers.distributed.check_workers`, or workers would share a GPU.
    """
    if share.workers > 1 and 0 < share.gpus < 1:
        raise ConfigError(
            f"resources.gpus_per_trial={share.gpus:g}, but each of the {share.workers} workers of a trial needs a GPU "
            "of its own. Use resources.gpus_per_trial=1, or 1 worker."
        )
    device = torch.device("cuda" if share.gpus else "cpu")
    drawn = {
        item.path: item.values or (int(item.low), int(item.high)) for item in space.parameters if item.path in _DIVIDED
    }
    for point in itertools.product(*drawn.values()):
        changes = {path.removeprefix("training."): value for path, value in zip(drawn, point, strict=True)}
        check_workers(dataclasses.replace(base.training, **changes), share.workers, device)


def _start(rank: int, threads: int) -> Any:
    """A worker in its bundle of this actor's placement group."""
    reserved = ray.util.get_current_placement_group()
    assert reserved is not None, "Tune starts trials in placement groups."
    bundle = reserved.bundle_specs[rank]
    return (
        ray.remote(Worker)
        .options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(reserved, rank),
        )
        .remote(rank, threads)
    )
