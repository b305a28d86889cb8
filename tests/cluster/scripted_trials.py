"""Trials that follow a script in place of training: real processes on a real cluster, without torch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray import tune
from ray.tune.result import DONE

from search import columns, trainable
from search.architectures import ArchitectureTable, architecture_key
from search.config import ConstraintsConfig, LatencyConfig, SamplerConfig
from search.engine import Search
from search.ledger import Ledger
from search.resources import Share
from search.results import Table
from search.run_folder import RunFolder
from search.sampler import Sampler
from search.stopping import NoStopping
from spaces import Space
from trainers.config import TrialConfig

BASE = TrialConfig().replace({"training.epochs": 2, "training.precision": "fp32"})
RATES = [10.0**-exponent for exponent in range(1, 9)]
SPACE = Space.from_dict("rates", {"parameters": {"optimizer.lr": {"values": RATES}}})

Script = Callable[[dict[str, Any], int], str | None]
"""Given Tune's configuration of a trial and the epoch about to run: why the trial fails, None when it does not. It may
also take its time, or end its process."""


def actor_with(
    script: Script, epochs: int, pace_s: float, start: Callable[[dict[str, Any]], None] = lambda _: None
) -> type[tune.Trainable]:
    """Stands in for ``TrialActor``. Defined here and not in the module, which Ray's workers could not import.

    ``start`` is what a process does before its first trial, whose configuration it is given. A trial's folder keeps its
    checkpoint, the number of epochs trained, and what happened to it, a line an epoch.
    """
    folder_key, gpus_key, workers_key = trainable.FOLDER, trainable.GPUS, trainable.WORKERS
    failure_key, traceback_key = trainable.FAILURE, trainable.TRACEBACK
    epoch_key, miou_key, time_key = columns.EPOCH, columns.MIOU, columns.TRAIN_TIME_S

    class Actor(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.config = config
            start(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            return True

        def step(self) -> dict[str, Any]:
            checkpoint = Path(self.config[folder_key], "epochs")
            epoch = 1 + (int(checkpoint.read_text()) if checkpoint.exists() else 0)
            started = time.time()
            why = script(self.config, epoch)
            if why is not None:
                self._note(epoch, started)
                return {failure_key: why, traceback_key: "made up", epoch_key: 0, DONE: True}
            time.sleep(pace_s)
            self._note(epoch, started)
            checkpoint.write_text(str(epoch))
            return {epoch_key: epoch, miou_key: 0.1 * epoch, time_key: 1.0 * epoch, DONE: epoch == epochs}

        def _note(self, epoch: int, started: float) -> None:
            line: dict[str, Any] = {"epoch": epoch, "started": started, "ended": time.time(), "process": os.getpid()}
            line |= {"node": ray.get_runtime_context().get_node_id()}
            line |= {"gpus": self.config[gpus_key], "workers": self.config[workers_key]}
            with Path(self.config[folder_key], "events").open("a") as file:
                file.write(json.dumps(line) + "\n")

    return Actor


def open_search(run: RunFolder, trials: int) -> Search:
    """The real engine, sampler and tables over :data:`SPACE`, begun or continued."""
    table = Table(run.results / "architectures", columns.architectures_schema())
    if not table.read().num_rows:
        size = {columns.HEIGHT: BASE.data.height, columns.WIDTH: BASE.data.width}
        costs = {columns.LATENCY_MS: 5.0, columns.LATENCY_P95_MS: 6.0, columns.SIZE_MB: 3.0, columns.PARAMS: 7}
        row = {columns.ARCHITECTURE: architecture_key(BASE), columns.MACS: 9, columns.DEVICE: "cpu"}
        table.append(row | size | costs)
    architectures = ArchitectureTable(
        table=table,
        latency=LatencyConfig(),
        constraints=ConstraintsConfig(),
        share=Share(1, 0, 1),
        node_cpus=1,
        num_classes=2,
    )
    rows = Table(run.results / "trials", columns.trials_schema({"optimizer.lr": pa.float64()}, []))
    costs_of = architectures.costs(BASE)
    return Search(
        run=run,
        base=BASE,
        num_trials=trials,
        repeats=1,
        sampler=Sampler(run.storage, SPACE, SamplerConfig(name="random"), 0, epochs=2, costs=costs_of),
        stopping=NoStopping(),
        architectures=architectures,
        ledger=Ledger(rows, Table(run.results / "epochs", columns.epochs_schema([])), []),
        trials=rows,
    )


def events(trials: Path) -> dict[str, list[dict[str, Any]]]:
    """What happened to each trial, by its id."""
    return {
        file.parent.name: [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(trials.glob("*/events"))
    }


def most_at_a_time(trials: Path, weight: Callable[[dict[str, Any]], float] = lambda _: 1.0) -> float:
    """The largest sum of weights of epochs that were under way at the same moment."""
    lines = [line for happened in events(trials).values() for line in happened]
    return max(
        sum(weight(line) for line in lines if line["started"] <= moment["started"] < line["ended"]) for moment in lines
    )
