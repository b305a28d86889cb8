"""What a search of many trials costs the process that drives it: ``python tests/benchmarks/scale.py``.

Prints a JSON line for each ``--every`` trials that ended: CPU milliseconds of the driver a trial and a report, split by
part, its resident memory, and the most Parquet files and open file handles; the last line has the ratios of the last
such line to the first. Nothing is trained, all else is that of a search. By default trials are played within the
driver; with ``--ray`` Ray Tune schedules them, a process a trial, or with ``--hosts N`` that many processes for all of
them together: 500 processes of 110 MB are too many for most machines.

Parts: ``sampler`` (asking and telling), ``storage`` (of these, Optuna's database), ``tables`` (Parquet), ``reports``
(learning curves and stopping), ``engine`` (the rest of the search), ``view`` (terminal), and ``rest``, which is Ray
Tune where it takes part. ``follower`` is what reading the record costs the process that mirrors it to W&B; it is no
part of the driver.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.authentication import authenticate_local_cluster

authenticate_local_cluster()

import pyarrow as pa
import ray
from ray import tune
from ray.air.execution.resources.placement_group import PlacementGroupAcquiredResources
from rich.console import Console
from scale_meter import Clock, Meter

from search import columns, trainable
from search.architectures import ArchitectureTable, architecture_key
from search.capacity import Capacity, Patience
from search.cluster_config import ResourcesConfig
from search.config import (
    SAMPLERS,
    SCHEDULERS,
    ConstraintsConfig,
    LatencyConfig,
    SamplerConfig,
    SchedulerConfig,
)
from search.console import ProgressView
from search.engine import Search
from search.ledger import Ledger, TrialRecord
from search.resources import Share, Sharing
from search.results import Table
from search.run_folder import RunFolder
from search.sampler import Sampler
from search.schedulers import build_stopping
from search.tune_bridge import run_trials
from spaces import Space
from trainers.config import TrialConfig
from trainers.profiling import cpu_model

CLASSES = ("background", "building", "road", "water")
SPACE = Space.from_dict(
    "scale",
    {
        "parameters": {
            "model.architecture": {"values": ["unet", "deeplab"]},
            "model.base_channels": {"values": [8, 16, 32], "when": {"model.architecture": "unet"}},
            "model.backbone": {
                "values": ["mobilenet_v3_small", "resnet18", "vgg11_bn"],
                "when": {"model.architecture": "deeplab"},
            },
            "loss.class_weights": {"values": ["none", "inverse_frequency"]},
            "augmentation.policy": {"values": ["none", "light"]},
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        }
    },
)
_KINDS = {str: pa.string(), int: pa.int64(), float: pa.float64()}
GRID = Space.from_dict(
    "scale-grid",
    {
        "parameters": {
            "model.base_channels": {"values": [8, 16, 32]},
            "training.batch_size": {"values": list(range(1, 51))},
            "optimizer.lr": {"values": [1e-4 * 1.07**step for step in range(66)]},
        }
    },
)
"""9,900 points; a grid may have 10,000."""


def profiles(folder: Path, space: Space, base: TrialConfig) -> Table:
    """The table ``architectures``: the larger its number, the slower and larger a model."""
    table = Table(folder, columns.architectures_schema())
    for place, model in enumerate(space.enumerate("model.") or []):
        row: dict[str, Any] = {columns.ARCHITECTURE: architecture_key(base.replace(model)), columns.DEVICE: "cpu"}
        row |= {columns.HEIGHT: base.data.height, columns.WIDTH: base.data.width, columns.SIZE_MB: 2.0 + 3.0 * place}
        row |= {columns.LATENCY_MS: 5.0 * 1.5**place, columns.LATENCY_P95_MS: 6.0 * 1.5**place}
        table.append(row | {columns.PARAMS: 7, columns.MACS: 9, columns.TRAIN_PRECISION: "fp32"})
    return table


def open_search(run: RunFolder, given: argparse.Namespace, clock: Clock) -> tuple[Search, ProgressView, Meter]:
    """A search as :mod:`search.prepare` builds it, of architectures that need not be measured."""
    space = GRID if given.sampler == "grid" else SPACE
    base = TrialConfig().replace({"training.epochs": given.epochs, "training.precision": "fp32"})
    kinds = {item.path: _KINDS[type(item.values[0]) if item.values else float] for item in space.parameters}
    trials = Table(run.results / "trials", columns.trials_schema(kinds, CLASSES))
    epochs = Table(run.results / "epochs", columns.epochs_schema(CLASSES))
    architectures = ArchitectureTable(
        table=profiles(run.results / "architectures", space, base),
        latency=LatencyConfig(),
        constraints=ConstraintsConfig(),
        share=Share(1, 0, given.concurrent),
        node_cpus=given.concurrent,
        num_classes=len(CLASSES),
    )
    config = SamplerConfig(name=given.sampler)
    sampler = Sampler(run.storage, space, config, 0, epochs=given.epochs, costs=architectures.costs(base))
    console = Console(file=(run.path / "terminal.txt").open("w"), force_terminal=True)
    view, meter = ProgressView(console, run.name, given.trials, 1, []), Meter(run, clock, given.every, given.follow)
    search = Search(
        run=run,
        base=base,
        num_trials=given.trials,
        repeats=1,
        sampler=sampler,
        stopping=build_stopping(SchedulerConfig(name=given.scheduler), given.epochs),
        architectures=architectures,
        ledger=Ledger(trials, epochs, [view, meter]),
        trials=trials,
    )
    return search, view, meter


def made_up_epoch(trial_id: str, config: Mapping[str, Any], epoch: int) -> dict[str, Any]:
    """What a trial reports: a curve that rises to what its learning rate and luck let it reach."""
    luck = random.Random(trial_id).random()
    away = math.log10(config["optimizer"]["lr"]) + 2.8
    top = 0.7 - 0.1 * away**2 - 0.1 * luck
    miou = top * (1 - math.exp(-2 * epoch / config["training"]["epochs"]))
    ious = {f"iou/{name}": miou for name in ("background", "building", "road", "water")}
    losses = {"train_loss": 1 - miou, "val_loss": 1.1 - miou, "lr": 1e-3, "pixel_accuracy": miou}
    return {"epoch": epoch, "miou": miou, "train_time_s": 1.0 * epoch, "epoch_time_s": 1.0} | ious | losses


class NoOpActor(tune.Trainable):
    """In place of :class:`search.trainable.TrialActor`: reports at once."""

    def step(self) -> dict[str, Any]:
        """See Trainable."""
        config = self.config["trial"]
        epoch = self.iteration + 1
        return made_up_epoch(self.config["id"], config, epoch) | {"done": epoch >= config["training"]["epochs"]}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """See Trainable."""
        self.config = new_config
        return True


class Host:
    """A process that has the actors of many trials."""

    def __init__(self, kind: type[NoOpActor]) -> None:
        self._kind = kind
        self._actors: dict[int, Any] = {}

    def begin(self, number: int, given: dict[str, Any]) -> None:
        """Make actor ``number``."""
        self._actors[number] = self._kind(**given)

    def call(self, number: int, method: str, *given: Any, **named: Any) -> Any:
        """Have the actor do something."""
        if method == "__ray_ready__":
            return True
        return getattr(self._actors[number], method)(*given, **named)


class HostedActor:
    """In place of an actor's handle: one of many in a :class:`Host`."""

    def __init__(self, host: Any, number: int) -> None:
        self._host, self._number = host, number

    def __getattr__(self, method: str) -> Any:
        return HostedMethod(self._host, self._number, method)


class HostedMethod:
    """In place of a method of an actor's handle."""

    def __init__(self, host: Any, number: int, method: str, **options: Any) -> None:
        self._host, self._number, self._method, self._options = host, number, method, options

    def options(self, **options: Any) -> HostedMethod:
        """See ray.actor.ActorMethod."""
        return HostedMethod(self._host, self._number, self._method, **options)

    def remote(self, *given: Any, **named: Any) -> Any:
        """See ray.actor.ActorMethod."""
        return self._host.call.options(**self._options).remote(self._number, self._method, *given, **named)


class HostedClass:
    """In place of an actor's class: begins the next actor in the next of a few hosts."""

    def __init__(self, hosts: int) -> None:
        kind: Any = ray.remote(num_cpus=0)(Host)
        self._hosts = [kind.remote(NoOpActor) for _ in range(hosts)]
        self._number = 0

    def remote(self, **given: Any) -> HostedActor:
        """See ray.actor.ActorClass."""
        self._number += 1
        host = self._hosts[self._number % len(self._hosts)]
        host.begin.remote(self._number, given)
        return HostedActor(host, self._number)


def play(search: Search, concurrent: int) -> None:
    """Run all trials within this process, ``concurrent`` at a time."""
    running: list[TrialRecord] = []
    ended = False
    while running or not ended:
        try:
            while not ended and len(running) < concurrent and (trial := search.next_trial()) is not None:
                running.append(trial)
        except StopIteration:
            ended = True
        for trial in list(running):
            row = made_up_epoch(trial.trial_id, trial.config.to_dict(), trial.epoch + 1)
            # As Tune has it: whether a trial goes on after its last epoch is not asked.
            last = row["epoch"] == trial.config.training.epochs or search.stop_reason(trial.trial_id, row) is not None
            search.report(trial.trial_id, row)
            if last:
                search.end(trial.trial_id)
                running.remove(trial)
            search.rest()


def play_with_ray(search: Search, given: argparse.Namespace, run: RunFolder) -> None:
    """Let Ray Tune run them, on a cluster of as many made-up CPUs."""
    trainable.TrialActor = NoOpActor  # type: ignore[misc, assignment]
    ray.init(
        address="local",
        num_cpus=given.concurrent,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        _system_config={"prestart_worker_first_driver": False},  # else a process for each made-up CPU
    )
    try:
        if given.hosts:
            hosted = HostedClass(given.hosts)
            setattr(PlacementGroupAcquiredResources, "annotate_remote_entities", lambda *_: [hosted])  # noqa: B010
            setattr(ray, "kill", lambda *_: None)  # noqa: B010 - of an actor that shares its process
        capacity = Capacity()
        sharing = Sharing(Share(1, 0, given.concurrent), ResourcesConfig(), capacity.nodes)
        run_trials(search, sharing, capacity, Patience(print, None, capacity), run.ray)
    finally:
        ray.shutdown()


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Run the search, and print."""
    clock = Clock()
    clock.watch_search()
    run = RunFolder(folder / "scale")
    run.trials.mkdir(parents=True)
    search, view, meter = open_search(run, given, clock)
    with view:
        if given.ray:
            play_with_ray(search, given, run)
        else:
            play(search, given.concurrent)
    began = time.process_time()
    search.close()
    asked = ("trials", "epochs", "concurrent", "sampler", "scheduler", "ray", "hosts")
    ends: dict[str, Any] = {key: getattr(given, key) for key in asked}
    ends |= {"close_s": round(time.process_time() - began, 2), "epochs_recorded": run.read_epochs().num_rows}
    ends["states"] = Counter(run.read_trials()[columns.STATE].to_pylist())
    print(json.dumps(meter.summary() | ends | {"device": cpu_model()}), flush=True)


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--concurrent", type=int, default=8)
    parser.add_argument("--sampler", choices=SAMPLERS, default="random")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="front")
    parser.add_argument("--every", type=int, default=1000, help="trials a line")
    parser.add_argument("--follow", type=int, default=100, help="trials between two looks of the follower")
    parser.add_argument("--ray", action="store_true", help="let Ray Tune schedule")
    parser.add_argument("--hosts", type=int, default=0, help="processes for all trials; 0: one for each")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


if __name__ == "__main__":
    main()
