"""A search that is killed again and again stops the same trials as one that nobody disturbs.

With one worker and a grid, what is tried next hangs neither on chance nor on who reports first. The proof with real
processes takes minutes: ``python -m pytest -m slow tests/search/test_resume_rungs.py --timeout 1800``.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from real_search import SETTINGS, rows, run, started
from untrained_search import BASE, open_search

from search import columns
from search.architectures import architecture_key
from search.engine import Search
from search.ledger import TrialRecord
from search.pareto_asha import ParetoAsha
from search.results import Table
from search.run_folder import RunFolder
from spaces import Space

WIDTHS, RATES = [4, 8, 16], [1e-2, 1e-3, 1e-4]
GRID = {"parameters": {"model.base_channels": {"values": WIDTHS}, "optimizer.lr": {"values": RATES}}}
SPACE = Space.from_dict("grid", GRID)
EPOCHS = 5
LONGER = BASE.replace({"training.epochs": EPOCHS})
Moment = Callable[..., None]
"""Called with what has just happened, the trial, and its epoch if it was one."""


class KilledError(BaseException):
    """The process is gone: nothing that handles errors runs."""


class Killer:
    """Kills the process at the first moment, and at every third new one."""

    def __init__(self) -> None:
        self.seen, self.killed = set[tuple[Any, ...]](), set[tuple[Any, ...]]()

    def __call__(self, *moment: Any) -> None:
        if moment in self.seen:
            return
        self.seen.add(moment)
        if len(self.seen) % 3 == 1:
            self.killed.add(moment)
            raise KilledError


def begin(run: RunFolder) -> None:
    """A new run, where wider models are slower and larger."""
    table = Table(run.results / "architectures", columns.architectures_schema())
    for width in WIDTHS:
        row: dict[str, Any] = {columns.ARCHITECTURE: architecture_key(LONGER.replace({"model.base_channels": width}))}
        row |= {columns.HEIGHT: LONGER.data.height, columns.WIDTH: LONGER.data.width, columns.DEVICE: "cpu"}
        row |= {columns.LATENCY_MS: 1.0 * width, columns.LATENCY_P95_MS: 1.5 * width, columns.SIZE_MB: width / 2}
        table.append(row | {columns.PARAMS: width, columns.MACS: width})
    table.flush()


def miou(trial: TrialRecord, epoch: int) -> float:
    """Wider is better, the middle rate is the best, and the higher the rate the sooner."""
    width: int = trial.assignment["model.base_channels"]
    lr: float = trial.assignment["optimizer.lr"]
    top = 0.2 + 0.02 * width - 0.1 * abs(math.log10(lr) + 3)
    return top * (1 - math.exp(-epoch * 5 * lr**0.3))


def train(search: Search, trial: TrialRecord, moment: Moment) -> None:
    """Report as an actor does: from the first epoch on, since a checkpoint holds those before a kill."""
    for epoch in range(1, EPOCHS + 1):
        row: dict[str, Any] = {columns.EPOCH: epoch, columns.MIOU: miou(trial, epoch)}
        search.report(trial.trial_id, row | {columns.TRAIN_TIME_S: 1.0 * epoch})
        moment("reported", trial.trial_id, epoch)
        stopped = epoch < EPOCHS and search.stop_reason(trial.trial_id, row) is not None
        moment("judged", trial.trial_id, epoch)
        if stopped:
            break
    search.end(trial.trial_id)


def after(moment: Moment, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, whose first argument is a trial's id or row, behind a ``moment`` of that ``kind``."""

    def called(trial: Any, *rest: Any) -> Any:
        moment(kind, trial if isinstance(trial, str) else trial[columns.TRIAL_ID])
        return call(trial, *rest)

    return called


def play(run: RunFolder, rule: ParetoAsha, moment: Moment) -> None:
    """One process of the search ``run``, until its end or a kill."""
    search, sampler = open_search(run, SPACE, len(WIDTHS) * len(RATES), stopping=rule, base=LONGER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.ledger, "record", after(moment, "epochs on disk", search.ledger.record))
        for name in ("tell_completed", "tell_stopped"):
            patch.setattr(sampler, name, after(moment, "end on disk", getattr(sampler, name)))
        while True:
            try:
                trial = search.next_trial()
            except StopIteration:
                break
            assert trial is not None
            moment("drawn", trial.trial_id)
            train(search, trial, moment)
    search.close()


def finish(run: RunFolder, moment: Moment) -> dict[str, Any]:
    """Begin the search and resume it until it is through; what came of it, and what its rule holds."""
    begin(run)
    while True:
        rule = ParetoAsha(eta=2, grace_epochs=1, epochs=EPOCHS, brackets=2)
        try:
            play(run, rule, moment)
        except KilledError:
            continue
        return outcome(run, SPACE) | {"rungs": rule.brackets}


def outcome(run: RunFolder, space: Space) -> dict[str, Any]:
    """How each trial ended, and what the sampler was told of it."""
    names = [columns.TRIAL_ID, columns.STATE, columns.REASON, columns.EPOCH, columns.MIOU, *space.paths]
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{run.storage}")
    told = [(trial.state, trial.params, trial.values, trial.constraints) for trial in study.trials]
    ends = sorted(tuple(row[name] for name in names) for row in rows(run, "trials"))
    return {"ends": ends, "states": [end[1] for end in ends], "told": told}


def test_kills_at_any_moment_change_nothing(tmp_path: Path) -> None:
    undisturbed = finish(RunFolder(tmp_path / "undisturbed"), lambda *_: None)
    killer = Killer()
    assert finish(RunFolder(tmp_path / "killed"), killer) == undisturbed
    assert {kind for kind, *_ in killer.killed} == {"drawn", "reported", "judged", "epochs on disk", "end on disk"}
    stopped = [trial_id for trial_id, state, *_ in undisturbed["ends"] if state == columns.STOPPED]
    assert 3 <= len(stopped) <= 6
    assert any(("epochs on disk", trial_id) in killer.killed for trial_id in stopped), "with the verdict not on disk"


REAL = """\
parameters:
  model.base_channels: {values: [2, 4, 8]}
  optimizer.lr: {values: [1.0e-2, 3.0e-3, 1.0e-4]}
fixed: {model.architecture: unet, model.size: small, training.batch_size: 4, training.precision: fp32,
        training.epochs: 8}
search: {sampler.name: grid, num_trials: 9, scheduler.name: pareto_asha, scheduler.eta: 2}
"""


def was_measured(run_folder: RunFolder) -> bool:
    return any((run_folder.results / "architectures").glob("*.parquet"))


def has_reported(epochs: int, run_folder: RunFolder) -> bool:
    return len(run_folder.read_epochs()) >= epochs


def kill_when(workplace: Path, settings: list[str], ready: Callable[[RunFolder], bool]) -> None:
    """Let the search ``killed`` begin or go on, and kill it with SIGKILL as soon as it is ``ready``."""
    with started(workplace, settings, "killed", ready) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_search_killed_with_sigkill_stops_the_same_trials(tmp_path: Path) -> None:
    file = tmp_path / "conf" / "space" / "grid.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(REAL)
    settings = [*SETTINGS, "space=grid", "resources.max_concurrent_trials=1", "tracking.mode=off"]
    killed, undisturbed = (RunFolder(tmp_path / "runs" / name) for name in ("killed", "undisturbed"))
    assert run(tmp_path, *settings, "run=undisturbed")[0] == 0
    expected = outcome(undisturbed, Space.from_dict("grid", yaml.safe_load(REAL)))
    assert expected["states"].count(columns.STOPPED) >= 2
    assert expected["states"].count(columns.COMPLETED) >= 2

    kill_when(tmp_path, [*settings, "run=killed"], was_measured)
    # No latency is measured twice to the same digits, and here both searches must judge by the same ones.
    shutil.rmtree(killed.results / "architectures")
    shutil.copytree(undisturbed.results / "architectures", killed.results / "architectures")
    for epochs in (1, 8, 16):
        kill_when(tmp_path, ["resume=killed"], partial(has_reported, epochs))
        assert len(rows(killed, "trials")) < len(expected["ends"])
    assert run(tmp_path, "resume=killed")[0] == 0
    assert outcome(killed, Space.from_dict("grid", yaml.safe_load(REAL))) == expected
