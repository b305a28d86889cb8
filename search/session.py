"""One sitting of a search: begin or continue it, run what is missing, report."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import shutil
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cluster.connect import connect
from search import columns
from search.config import SearchConfig, load_config, save_config
from search.console import ProgressView
from search.errors import log_to
from search.ledger import Observer
from search.prepare import Plan, build_search, describe, plan_search, start_run
from search.reporting import build_report
from search.reporting.record import read_record
from search.reporting.terminal import print_front
from search.run_folder import RunError, RunFolder, find_run
from search.tracking import Tracker, resolve_mode
from search.tune_bridge import run_trials
from trainers.config import ConfigError
from trainers.datasets import open_dataset

RESUMABLE = ("resume", "runs", "num_trials", "cluster", "resources", "tracking")
"""Settings that may differ when a run goes on; all others are the run's own."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def start(config: SearchConfig) -> int:
    """Run a new search; returns the exit code."""
    name = config.run or f"{config.space_name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    run = RunFolder.named(Path(config.runs).absolute(), name)
    if run.path.exists():
        raise RunError(
            f"There is a run {name!r} already. Continue it with resume={name}, or choose another run=<name>."
        )
    mode = resolve_mode(config.tracking.mode)
    data = open_dataset(config.data)
    with connect(config.cluster.address) as nodes:
        plan = plan_search(config, data, nodes)
        if config.dry_run:
            return say_plan(plan)
        with run.held():
            try:
                start_run(plan, run)
                return search(plan, run, mode)
            except BaseException:
                if not any(run.trials.glob("*")):
                    shutil.rmtree(run.path)  # No trial began: the name is free again.
                raise


def say_plan(plan: Plan) -> int:
    """Print what would run; returns the exit code."""
    console, config = Console(), plan.config
    console.print(describe(plan))
    size = plan.space.size()
    points = "endless configurations" if size is None else f"{size} configurations"
    console.print(f"\n{config.num_trials} trials of up to {plan.base.training.epochs} epochs from {points}")
    console.print(f"{plan.share.describe()}\nNothing was run: dry_run=true")
    return 0


def resume(config: SearchConfig, given: list[str]) -> int:
    """Continue an interrupted search under its own settings; returns the exit code."""
    strange = [name for name in given if name.split(".")[0] not in RESUMABLE]
    if strange:
        raise ConfigError(
            f"resume continues a run under its own settings; {', '.join(strange)} cannot be given. "
            f"Only {', '.join(RESUMABLE[1:])} may change."
        )
    assert config.resume is not None
    run = find_run(Path(config.runs).absolute(), config.resume)
    changes = {name.split(".")[0] for name in given} - {"resume", "runs"}
    own = dataclasses.replace(load_config(run.config), **{name: getattr(config, name) for name in changes})
    mode = resolve_mode(own.tracking.mode)
    data = open_dataset(own.data)
    with run.held(), connect(own.cluster.address) as nodes:
        plan = plan_search(own, data, nodes)
        save_config(own, run.config)
        return search(plan, run, mode)


def search(plan: Plan, run: RunFolder, mode: str) -> int:
    """Run the trials that are missing, then report; returns the exit code."""
    log_to(run.log)
    console, config = Console(), plan.config
    data = plan.data
    console.print(f"{run.name}: {config.num_trials} trials of space {config.space_name}, {plan.share.describe()}")
    console.print(f"Data {data.name}: {len(data.train)} training and {len(data.val)} validation images")
    for note in data.notes:
        console.print(Text(f"  {note}"))
    before = [row for row in run.read_trials().to_pylist() if row[columns.STATE] != columns.INTERRUPTED]
    view = ProgressView(console, run.name, config.num_trials, before)
    tracker = None if mode == "off" else Tracker(config.tracking, mode, run.path, run.name)
    observers: list[Observer] = [view] if tracker is None else [view, tracker]
    try:
        with console.status("Measuring the architectures") as status:
            running = build_search(plan, run, observers, status.update)
        console.print(running.architectures.summary())
        with view:
            run_trials(running, plan.share, run.ray)
        interrupted = running.close()
    finally:
        if tracker is not None:
            tracker.close()
    return finish(run, console, tracker, interrupted)


def finish(run: RunFolder, console: Console, tracker: Tracker | None, interrupted: bool) -> int:
    """Write the report and say what there is; returns the exit code."""
    record = read_record(run)
    files = build_report(run, record)
    print_front(record, console)
    say = functools.partial(console.print, soft_wrap=True, highlight=False)
    say(f"\nReport:  {files.page}\nResults: {run.results} (Parquet)")
    if tracker is not None:
        say(f"W&B:     {tracker.trouble or run.wandb}")
    if interrupted:
        say(f"\nInterrupted. Continue with: python -m search.run resume={run.name}")
        return INTERRUPTED
    say(f"\nReport again: python -m search.report run={run.name}")
    return 0
