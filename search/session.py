"""One sitting of a search: begin or continue it, run what is missing, report."""

from __future__ import annotations

import datetime
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from cluster.connect import connect
from search import columns
from search.capacity import Capacity, Patience
from search.config import SearchConfig, save_config, space_of
from search.console import ProgressView, sayer
from search.copying import Copier
from search.disk import disk_trouble_told
from search.errors import log_to
from search.front_diagnosis import diagnose_front
from search.latency_check import show_latency_check
from search.prepare import Plan, build_search, describe, plan_search, plan_warm_start, start_run
from search.reporting.record import Record, read_record
from search.reporting.terminal import print_front
from search.run_folder import FINISHED, INTERRUPTED, RUNNING, RunError, RunFolder, find_run
from search.shared_folder import require_shared_folder
from search.storage import Storage, StorageError
from search.storage_check import require_reachable
from search.stored_run import find_stored_run, forget_run, require_free
from search.tracking.beside import Tracking
from search.tracking.login import Login
from search.tune_bridge import run_trials
from search.warm_start import WarmStart
from spaces import Space
from trainers.config import TrialConfig
from trainers.datasets import SegmentationData, open_dataset
from trainers.settings import require

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
EXIT_NO_CAPACITY = 75
"""Exit code of a search that waited in vain for room on the cluster: a failure that passes (EX_TEMPFAIL)."""
EXIT_NOTHING_TRAINED = 2
"""Exit code of a search that found nothing to train: that of a mistake in the settings, as it mostly is one."""


def start(config: SearchConfig) -> int:
    """Run a new search; returns the exit code."""
    name = config.run or f"{config.space_name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    run = RunFolder.named(Path(config.runs), name)
    if run.path.exists() and not run.is_unbegun():
        raise RunError(
            f"There is a run {name!r} already. Continue it with resume={name}, or choose another run=<name>."
        )
    run.require_writable_parent()
    if config.storage is not None:
        require_free(config.storage, name)
    login = Login(config.tracking.mode)
    earlier = [read_record(find_earlier(config, name)) for name in config.earlier_runs]
    space, base, data = open_data(config)
    with connect(config.cluster.address) as nodes:
        plan = plan_search(config, space, base, data, nodes)
        warm_start = plan_warm_start(plan, earlier)
        if config.dry_run:
            return say_plan(plan, warm_start)
        with run.held():
            try:
                start_run(plan, run, warm_start)
                return search(plan, run, login)
            except BaseException:
                if not any(run.trials.glob("*")):
                    shutil.rmtree(run.path)  # No trial began: the name is free again.
                    if config.storage is not None:
                        with suppress(StorageError):  # It may be what went wrong.
                            forget_run(config.storage, name)
                raise


def find_earlier(config: SearchConfig, name: str) -> RunFolder:
    """A run to learn from: of this machine, else of the storage.

    Raises:
        RunError: there is none.
    """
    runs = Path(config.runs)
    known = config.storage is None or RunFolder.named(runs, name).config.exists()
    return find_stored_run(runs, name, None if known else config.storage)


def open_data(config: SearchConfig) -> tuple[Space, TrialConfig, SegmentationData]:
    """The space, what its trials have in common, and the data set they share; packs it on first use."""
    space = space_of(config)
    base = config.base_trial(space)
    return space, base, open_dataset(base.data)


def say_plan(plan: Plan, warm_start: WarmStart) -> int:
    """Print what would run; returns the exit code."""
    console, config = Console(), plan.config
    console.print(describe(plan))
    size = plan.space.size()
    points = "endless configurations" if size is None else f"{size} configurations"
    seeds = f" under {config.repeats} seeds each" if config.repeats > 1 else ""
    console.print(f"\n{config.num_trials} trials{seeds} of up to {plan.base.training.epochs} epochs from {points}")
    for note in warm_start.notes:
        sayer(console)(note)
    console.print(f"{plan.sharing.describe()}\nNothing was run: dry_run=true")
    return 0


def resume(config: SearchConfig, name: str) -> int:
    """Continue the interrupted search ``name``, or extend a finished one; returns the exit code."""
    run = find_run(Path(config.runs), name)
    require_more_trials(config, run)
    login = Login(config.tracking.mode)
    space, base, data = open_data(config)
    with run.held(), connect(config.cluster.address) as nodes:
        plan = plan_search(config, space, base, data, nodes)
        save_config(config, run.config)
        return search(plan, run, login)


def require_more_trials(config: SearchConfig, run: RunFolder) -> None:
    """Refuse a number of trials that the run has exceeded already: results are never taken back.

    Raises:
        ConfigError: naming both numbers.
    """
    rows = run.read_trials().to_pylist()
    drawn = {row[columns.CONFIGURATION] for row in rows if row[columns.STATE] != columns.INFEASIBLE}
    rule = f"at least {len(drawn)}, the trials that run {run.name!r} has already (more extend it)"
    require(config.num_trials >= len(drawn), "num_trials", rule, config.num_trials)


def search(plan: Plan, run: RunFolder, login: Login) -> int:
    """Run the trials that are missing, then report; returns the exit code."""
    log_to(run.log)
    console, storage = Console(), plan.config.storage
    if storage is None:
        require_shared_folder(run.path, plan.nodes)
        return run_and_report(plan, run, login, console, None)
    with Copier(run, Storage(storage), sayer(console)) as copier:
        require_reachable(copier.storage, plan.nodes)
        return run_and_report(plan, run, login, console, copier)


def run_and_report(plan: Plan, run: RunFolder, login: Login, console: Console, copier: Copier | None) -> int:
    """:func:`search` once the places that it writes to are known to be good."""
    config, data = plan.config, plan.data
    say = sayer(console)
    seeds = f" under {config.repeats} seeds each" if config.repeats > 1 else ""
    say(f"{run.name}: {config.num_trials} trials{seeds} of space {config.space_name}, {plan.sharing.describe()}")
    say(f"Data {data.name}: {len(data.train)} training and {len(data.val)} validation images")
    for note in data.notes:
        say(f"  {note}")
    for note in WarmStart.load(run.warm_start).notes:
        say(note)
    before = [row for row in run.read_trials().to_pylist() if row[columns.STATE] != columns.INTERRUPTED]
    view = ProgressView(console, run.name, config.num_trials, config.repeats, before)
    run.write_status(RUNNING)
    if copier is not None:
        copier.offer()  # From now on it can be continued elsewhere.
    capacity = Capacity()
    patience = Patience(say, config.cluster.patience_s, capacity)
    with console.status("Measuring the architectures") as status:
        running = build_search(plan, run, [view], status.update, patience, copier=copier)
    say(running.architectures.summary())
    doubts = running.architectures.doubts()
    if doubts is not None:
        say(doubts)
    mode = login.settle(run, say)
    # Begun only now: while architectures are measured nothing else may run.
    tracking = None if mode == "off" else Tracking(run, config.tracking, mode, say)
    with view, disk_trouble_told(run):
        run_trials(running, plan.sharing, capacity, patience, run.ray)
        interrupted = running.close()
    for reason in (patience.gave_up, running.gave_up):
        if reason is not None:
            say(reason)
    if not interrupted:
        with console.status("Measuring the latency of the front again"):
            show_latency_check(run, running.architectures, say)
    report(plan, run, console, interrupted)
    if copier is not None:
        with console.status("Copying the rest to the storage"):
            trouble = copier.close()
        say(f"Storage: {trouble or copier.storage.place}")
    if tracking is not None:
        with console.status("Waiting for W&B"):
            say(f"W&B:     {tracking.close()}")
    if interrupted:
        say(f"\nInterrupted. Continue with: python -m search.run {run.argument('resume')}")
        return EXIT_INTERRUPTED if patience.gave_up is None else EXIT_NO_CAPACITY
    say(f"\nReport again: python -m search.report {run.argument()}")
    return EXIT_NOTHING_TRAINED if running.gave_up is not None and not running.taken else 0


def report(plan: Plan, run: RunFolder, console: Console, interrupted: bool) -> None:
    """Write the report and what goes with it, and say what there is."""
    # matplotlib and scikit-learn take seconds to import: the trials should not wait for them.
    from search.reporting.build import build_report  # noqa: PLC0415

    say = sayer(console)
    record = read_record(run)
    if not interrupted:
        with console.status("Predicting with the models of the front"):
            show_predictions(plan, run, record, say)
    files = build_report(run, record)
    run.write_status(INTERRUPTED if interrupted else FINISHED)
    print_front(record, console)
    say(f"\nReport:  {files.page}\nResults: {run.results} (Parquet)")


def show_predictions(plan: Plan, run: RunFolder, record: Record, say: Callable[[str], None]) -> None:
    """Write the diagnosis and the gallery of the front; a search that is done must not fail for them."""
    try:
        diagnosis = diagnose_front(
            run, record.front_rows, plan.data, plan.base.data, plan.share, storage=plan.config.storage
        )
    except KeyboardInterrupt:
        again = f"python -m search.run {run.argument('resume')}"
        say(f"Interrupted while the front predicted, so the report shows no predictions. To have them: {again}")
        return
    except Exception as error:
        logging.getLogger(__name__).exception("The front was not diagnosed.")
        say(f"The front was not diagnosed, so the report shows no predictions: {type(error).__name__}: {error}")
        return
    for trial_id, reason in diagnosis.missing.items():
        say(f"{trial_id} predicts nothing: {reason}")
