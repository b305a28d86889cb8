"""The running search: what to try next, what came of each trial, and how to go on after an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from search import columns, trainable
from search.architectures import ArchitectureTable
from search.ledger import Ledger, TrialRecord, cell, now
from search.results import Table
from search.run_folder import RunFolder
from search.sampler import Draw, Sampler
from search.stopping import StoppingRule
from trainers.checkpoint import Checkpoints
from trainers.config import TrialConfig
from trainers.settings import ConfigError

DRAWS_PER_TRIAL = 20
"""Draws after which a search gives up finding a feasible architecture for one more trial."""


class Search:
    """One search of ``num_trials`` trials, begun or continued in ``run``."""

    def __init__(
        self,
        *,
        run: RunFolder,
        base: TrialConfig,
        num_trials: int,
        sampler: Sampler,
        stopping: StoppingRule,
        architectures: ArchitectureTable,
        ledger: Ledger,
        trials: Table,
    ) -> None:
        self._run, self._base, self._num_trials = run, base, num_trials
        self._sampler, self._stopping = sampler, stopping
        self.architectures, self.ledger, self._trials = architectures, ledger, trials
        self._reasons: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._held: Draw | None = None
        self._nothing_left = False
        self._taken = 0
        self._pending = self._take_up()

    def next_trial(self) -> TrialRecord | None:
        """The next trial to start; none while it must wait until no trial is running.

        Raises:
            StopIteration: there is nothing more to try.
        """
        for _ in range(DRAWS_PER_TRIAL):
            draw = self._next_draw()
            try:
                config = self._base.replace(draw.assignment)
            except ConfigError as error:
                self._refuse(draw, str(error))
                continue
            row = self.architectures.row(config)
            if row is None:
                if self.ledger.running():
                    self._held = draw
                    return None
                self.architectures.measure([config], lambda _: None, claim=False)
                row = self.architectures.row(config)
                assert row is not None
            if config.training.precision == "auto":
                config = config.replace({"training.precision": row[columns.TRAIN_PRECISION]})
            trial = TrialRecord(draw.trial_id, draw.assignment, config, row, now())
            broken = self.architectures.reason(row)
            if broken is None:
                return self._start(trial)
            self._tell(self.ledger.end(trial, columns.INFEASIBLE, broken))
        self._nothing_left = True
        raise StopIteration

    def report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A trial finished an epoch, or failed in it."""
        if trainable.FAILURE in result:
            self._failures[trial_id] = result[trainable.FAILURE]
            (self._folder(trial_id) / "error.txt").write_text(result[trainable.TRACEBACK])
        else:
            self.ledger.report(trial_id, result)

    def stop_reason(self, trial_id: str, result: Mapping[str, Any]) -> str | None:
        """Why the trial must stop after this result; none to let it go on."""
        objectives = self.ledger.trials[trial_id].costs | {columns.MIOU: result[columns.MIOU]}
        reason = self._stopping.report(trial_id, result[columns.EPOCH], objectives)
        if reason is not None:
            self._reasons[trial_id] = reason
        return reason

    def end(self, trial_id: str, process_error: str | None = None) -> None:
        """A trial ended for good: record it, then tell the sampler, then clear what nobody needs."""
        failure = process_error or self._failures.get(trial_id)
        checkpoints = Checkpoints(self._folder(trial_id))
        if failure is not None:
            state, reason, clear = columns.FAILED, failure, checkpoints.remove_all
        elif trial_id in self._reasons:
            state, reason, clear = columns.STOPPED, self._reasons[trial_id], checkpoints.remove_all
        else:
            state, reason, clear = columns.COMPLETED, None, checkpoints.remove_last
        self._tell(self.ledger.end(self.ledger.trials[trial_id], state, reason))
        clear()

    def close(self) -> bool:
        """Record trials that did not come to an end; true when the search did not come to its end either."""
        left = self.ledger.running()
        for trial in left:
            self.ledger.end(trial, columns.INTERRUPTED, "the search was interrupted")
        self.ledger.compact()
        return bool(left) or not self._nothing_left

    def tune_config(self, trial: TrialRecord, threads: int) -> dict[str, Any]:
        """What the trial's actor is told."""
        return {
            trainable.TRIAL_ID: trial.trial_id,
            trainable.CONFIG: trial.config.to_dict(),
            trainable.FOLDER: str(self._folder(trial.trial_id)),
            trainable.THREADS: threads,
        }

    def _folder(self, trial_id: str) -> Path:
        return self._run.trials / trial_id

    def _next_draw(self) -> Draw:
        if self._held is not None:
            draw, self._held = self._held, None
            return draw
        if self._pending:
            return self._pending.pop(0)
        asked = self._sampler.ask() if self._taken < self._num_trials else None
        if asked is None:
            self._nothing_left = True
            raise StopIteration
        return asked

    def _start(self, trial: TrialRecord) -> TrialRecord:
        self._taken += 1
        self._folder(trial.trial_id).mkdir(parents=True, exist_ok=True)
        trial.config.save(self._folder(trial.trial_id) / "config.yaml")
        self.ledger.start(trial)
        return trial

    def _refuse(self, draw: Draw, reason: str) -> None:
        """Record a draw whose values contradict each other."""
        self._taken += 1
        row = {path: cell(value) for path, value in draw.assignment.items()}
        row |= {
            columns.TRIAL_ID: draw.trial_id,
            columns.STATE: columns.FAILED,
            columns.REASON: reason,
            columns.EPOCH: 0,
        }
        self.ledger.record(row | {columns.STARTED_AT: now(), columns.ENDED_AT: now()})
        self._tell(row)

    def _take_up(self) -> list[Draw]:
        """Continue what an earlier process recorded: the draws to go on with, in their order."""
        self._trials.compact(keep=lambda rows: rows.filter(pc.not_equal(rows[columns.STATE], columns.INTERRUPTED)))
        ended = {row[columns.TRIAL_ID]: row for row in self._trials.read().to_pylist()}
        self._taken = sum(row[columns.STATE] != columns.INFEASIBLE for row in ended.values())
        pending = []
        for draw in self._sampler.unfinished():
            if draw.trial_id in ended:
                self._tell(ended[draw.trial_id])
            else:
                pending.append(draw)
        self._replay_stopping(ended, pending)
        return pending

    def _tell(self, row: Mapping[str, Any]) -> None:
        """Tell the sampler an end as it is recorded, now or (after a kill between the two) on resume."""
        trial_id, state = row[columns.TRIAL_ID], row[columns.STATE]
        if state == columns.COMPLETED:
            self._sampler.tell_completed(trial_id, _objectives(row))
        elif state == columns.STOPPED:
            self._sampler.tell_stopped(trial_id, _objectives(row), 1 - row[columns.EPOCH] / row[columns.EPOCHS])
        elif state == columns.INFEASIBLE:
            self._sampler.tell_infeasible(trial_id, self.architectures.excess(row))
        else:
            self._sampler.tell_failed(trial_id)

    def _replay_stopping(self, ended: Mapping[str, Mapping[str, Any]], pending: list[Draw]) -> None:
        """Show the stopping rule the recorded epochs in the order they came: its state is nothing else."""
        costs = {trial_id: _objectives(row) for trial_id, row in ended.items()}
        for draw in pending:
            try:
                profile = self.architectures.row(self._base.replace(draw.assignment))
            except ConfigError:
                continue  # It never trained, and next_trial records why.
            if profile is not None:
                costs[draw.trial_id] = {name: profile[name] for name in columns.OBJECTIVES if name in profile}
        recorded = [row for epochs in self.ledger.recorded.values() for row in epochs.values()]
        for row in sorted(recorded, key=lambda item: item[columns.REPORTED_AT]):
            if row[columns.TRIAL_ID] in costs:
                objectives = costs[row[columns.TRIAL_ID]] | {columns.MIOU: row[columns.MIOU]}
                self._stopping.report(row[columns.TRIAL_ID], row[columns.EPOCH], objectives)


def _objectives(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in columns.OBJECTIVES}
