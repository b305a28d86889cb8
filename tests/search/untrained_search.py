"""Searches without Ray and without training: the real engine, sampler and tables, with made-up epochs.

``python tests/search/untrained_search.py <folder>`` begins or continues one, with W&B beside it as ``search.session``
has it, and prints what the user would be told; ``--mode off`` leaves W&B out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from search import columns
from search.architectures import ArchitectureTable, architecture_key
from search.config import ConstraintsConfig, LatencyConfig, SamplerConfig, SearchConfig, TrackingConfig, save_config
from search.copying import Copier
from search.engine import Search
from search.ledger import Ledger, TrialRecord
from search.resources import Share
from search.results import Table
from search.run_folder import FINISHED, RUNNING, RunFolder
from search.sampler import Sampler
from search.stopping import NoStopping, StoppingRule
from search.tracking.beside import Tracking
from search.tracking.login import Login
from spaces import Space
from trainers.config import TrainingConfig, TrialConfig

BASE = TrialConfig().replace({"training.epochs": 2, "training.precision": "fp32", "training.seed": 40})
RATES = Space.from_dict("rates", {"parameters": {"optimizer.lr": {"values": [1e-2, 1e-3, 1e-4]}}})
TRACKED: dict[str, Any] = {
    "question": "Which rate, and does a warm-up help?",
    "parameters": {
        "optimizer.name": {"values": ["adam", "sgd"]},
        "optimizer.momentum": {"values": [0.0, 0.9], "when": {"optimizer.name": "sgd"}},
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
    },
}
CLASSES = ("sky", "road")
_KINDS = {str: pa.string(), int: pa.int64(), float: pa.float64()}


def profiles(folder: Path, base: TrialConfig = BASE) -> Table:
    """The table ``architectures`` with the one that all trials here have."""
    table = Table(folder, columns.architectures_schema())
    if not table.read().num_rows:
        row = {columns.ARCHITECTURE: architecture_key(base), columns.HEIGHT: 96, columns.WIDTH: 128}
        row |= {columns.LATENCY_MS: 5.0, columns.LATENCY_P95_MS: 6.0, columns.SIZE_MB: 3.0}
        table.append(row | {columns.PARAMS: 7, columns.MACS: 9, columns.DEVICE: "cpu"})
    return table


def open_search(
    run: RunFolder,
    space: Space,
    num_trials: int = 1,
    repeats: int = 1,
    *,
    stopping: StoppingRule | None = None,
    base: TrialConfig = BASE,
    constraints: ConstraintsConfig | None = None,
    sampler_name: str | None = None,
    copier: Copier | None = None,
) -> tuple[Search, Sampler]:
    """The search of ``run``, begun or continued, and its sampler."""
    parameters = {item.path: _KINDS[type(item.values[0]) if item.values else float] for item in space.parameters}
    trials = Table(run.results / "trials", columns.trials_schema(parameters, CLASSES))
    epochs = Table(run.results / "epochs", columns.epochs_schema(CLASSES))
    architectures = ArchitectureTable(
        table=profiles(run.results / "architectures", base),
        latency=LatencyConfig(),
        constraints=constraints or ConstraintsConfig(),
        share=Share(1, 0, 1),
        node_cpus=2,
        num_classes=2,
    )
    endless = space.baselines or space.size() is None
    config = SamplerConfig(name=sampler_name or ("random" if endless else "grid"))
    sampler = Sampler(run.storage, space, config, 0, epochs=base.training.epochs, costs=architectures.costs(base))
    search = Search(
        run=run,
        base=base,
        num_trials=num_trials,
        repeats=repeats,
        sampler=sampler,
        stopping=stopping or NoStopping(),
        architectures=architectures,
        ledger=Ledger(trials, epochs, [] if copier is None else [copier.outbox]),
        trials=trials,
        copier=copier,
    )
    return search, sampler


def begin(run: RunFolder, content: Mapping[str, Any] = TRACKED, **settings: Any) -> tuple[Search, Space]:
    """Begin or continue the tracked search ``run``, whose folder then has what every run's has."""
    config, space = prepare(run, content, **settings)
    base = config.base_trial(space).replace({"training.precision": "fp32"})
    search, _ = open_search(run, space, config.num_trials, base=base, constraints=config.constraints)
    return search, space


def prepare(run: RunFolder, content: Mapping[str, Any] = TRACKED, **settings: Any) -> tuple[SearchConfig, Space]:
    """Write what every run's folder has before its first trial."""
    space = Space.from_dict("untrained", content)
    config = SearchConfig(space=dict(content), space_name=space.name, **{"num_trials": 4} | settings)
    run.trials.mkdir(parents=True, exist_ok=True)
    save_config(config, run.config)
    about = {"name": "made up", "question": space.question, "num_train": 1, "num_val": 1, "height": 96, "width": 128}
    about |= {"classes": [{"name": name, "color": [0, 0, 0]} for name in CLASSES], "notes": [], "references": []}
    run.write_data(about | {"parameters": list(space.paths), "constraints": {}})
    run.write_status(RUNNING)
    return config, space


def report(search: Search, trial: TrialRecord) -> bool:
    """The trial reports its next epoch; whether that was its last one."""
    epoch = trial.epoch + 1
    miou = int(trial.trial_id[1:5]) % 7 / 10 + epoch / 1000
    row: dict[str, Any] = {columns.EPOCH: epoch, columns.MIOU: miou, columns.TRAIN_TIME_S: 1.0 * epoch}
    search.report(trial.trial_id, row | {columns.TRAIN_LOSS: 1 / epoch, columns.iou_column(CLASSES[0]): miou})
    stopped = search.stop_reason(trial.trial_id, row) is not None
    return stopped or epoch == trial.config.training.epochs


def play(search: Search, concurrent: int = 1, pause_s: float = 0.0) -> list[float]:
    """Run all trials, ``concurrent`` at a time; returns the seconds that each report took the search."""
    running: list[TrialRecord] = []
    spent: list[float] = []
    ended = False
    while running or not ended:
        try:
            while len(running) < concurrent and (trial := search.next_trial()) is not None:
                running.append(trial)
        except StopIteration:
            ended = True
        for trial in list(running):
            started = time.perf_counter()
            last = report(search, trial)
            spent.append(time.perf_counter() - started)
            if last:
                search.end(trial.trial_id)
                running.remove(trial)
        search.rest()
        time.sleep(pause_s)
    search.close()
    return spent


def play_beside_wandb(folder: Path, settings: SearchConfig, concurrent: int, pause_s: float) -> None:
    """Begin or continue the search in ``folder``, with W&B beside it as ``search.session`` has it."""
    run, tracking = RunFolder(folder), settings.tracking
    login = Login(tracking.mode)
    with run.held():
        search, _ = begin(run, num_trials=settings.num_trials, training=settings.training, tracking=tracking)
        mode = login.settle(run, print)
        beside = None if mode == "off" else Tracking(run, tracking, mode, print)
        started = time.perf_counter()
        spent = play(search, concurrent, pause_s)
        print(json.dumps({"search_s": time.perf_counter() - started, "report_s": spent}))
        run.write_status(FINISHED)
        if beside is not None:
            print(f"W&B: {beside.close()}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--concurrent", type=int, default=2)
    parser.add_argument("--pause-s", type=float, default=0.2)
    parser.add_argument("--mode", default="online")
    parser.add_argument("--drain-s", type=float, default=60.0)
    given = parser.parse_args(arguments)
    tracking = TrackingConfig(mode=given.mode, drain_s=given.drain_s)
    training = TrainingConfig(epochs=given.epochs)
    settings = SearchConfig(space_name="untrained", num_trials=given.trials, training=training, tracking=tracking)
    play_beside_wandb(given.folder, settings, given.concurrent, given.pause_s)


def main_elsewhere(arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> None:
    """:func:`main` in a process that was forked for it."""
    os.environ |= dict(environment) | {"WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1"}
    with output.open("w", buffering=1) as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        main(arguments)


if __name__ == "__main__":
    main()
