"""The running search: what to try next, what came of each trial, and how to go on after an interruption."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.compute as pc

from search import columns, trainable
from search.architectures import ArchitectureTable
from search.copying import Copier
from search.ledger import Ledger, TrialRecord, now
from search.repeats import missing_repeats, repeat_id, summarise
from search.resources import Share
from search.results import Table
from search.run_folder import RunFolder
from search.sampler import Draw, Sampler
from search.stopping import StoppingRule
from trainers.checkpoint import Checkpoints
from trainers.config import TrialConfig
from trainers.settings import ConfigError

DRAWS_PER_TRIAL = 20
"""Draws after which a search gives up finding a feasible architecture for one more trial."""


@dataclass(frozen=True)
class _Job:
    """One run of a drawn configuration, still to be started."""

    draw: Draw
    repeat: int = 0

    @property
    def trial_id(self) -> str:
        return repeat_id(self.draw.trial_id, self.repeat)


class Search:
    """One search of ``num_trials`` configurations, each run under up to ``repeats`` seeds, begun or continued."""

    def __init__(
        self,
        *,
        run: RunFolder,
        base: TrialConfig,
        num_trials: int,
        repeats: int,
        sampler: Sampler,
        stopping: StoppingRule,
        architectures: ArchitectureTable,
        ledger: Ledger,
        trials: Table,
        copier: Copier | None = None,
    ) -> None:
        self._run, self._base = run, base
        self._num_trials, self._repeats = num_trials, repeats
        self._sampler, self._stopping = sampler, stopping
        self.architectures, self.ledger, self._trials = architectures, ledger, trials
        self._copier = copier
        self._reasons: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._ended: defaultdict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
        """Rows of the runs that ended, by configuration and repeat."""
        self._again: list[TrialRecord] = []
        """Trials that lost their process, or need a larger share: they start before all others."""
        self._exhausted = self._nothing_left = False
        """Whether nothing more is drawn; and whether all that was drawn has ended, too."""
        self.gave_up: str | None = None
        """Why the search ended before its number of trials, for people; None when it did not."""
        self._taken = 0
        self._due = self._take_up()

    def next_trial(self) -> TrialRecord | None:
        """The next trial to start; none while it must wait for a running one to end.

        Raises:
            StopIteration: there is nothing more to try, and nothing runs that could have to start again.
        """
        if self._again:
            return self._again.pop(0)
        for _ in range(DRAWS_PER_TRIAL):
            job = self._next_job()
            if job is None:
                return None
            try:
                config = self._base.replace(job.draw.assignment)
            except ConfigError as error:
                self._refuse(job, str(error))
                continue
            if self.architectures.row(config) is None:
                if self.ledger.running():
                    self._due.insert(0, job)
                    return None
                try:
                    self.architectures.measure([config], lambda _: None, claim=False)
                except ConfigError as error:
                    self._refuse(job, str(error))
                    continue
            trial = self._prepare(job, config)
            broken = self.architectures.reason(trial.architecture)
            if broken is None:
                return self._start(trial)
            self._conclude(trial, columns.INFEASIBLE, broken)
        self._exhausted, self.gave_up = True, self._why_given_up()
        return None if self.ledger.running() else self._end()

    def report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A trial finished an epoch, or failed in it."""
        if trainable.FAILURE in result:
            self._failures[trial_id] = result[trainable.FAILURE]
            (self._folder(trial_id) / "error.txt").write_text(result[trainable.TRACEBACK])
        else:
            trial = self.ledger.report(trial_id, result)
            if result[columns.EPOCH] == trial.config.training.epochs:
                self._judge(trial, result)  # Nobody asks whether the trial goes on, but its curve is whole only now.

    def stop_reason(self, trial_id: str, result: Mapping[str, Any]) -> str | None:
        """Why the trial must stop after this result; none to let it go on, as the rule always lets repeats."""
        reason = self._judge(self.ledger.trials[trial_id], result)
        request = self._run.stop_request(trial_id)
        if reason is None and request.exists():
            reason = request.read_text().strip() or "stopped by hand"
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
        self._conclude(self.ledger.trials[trial_id], state, reason)
        clear()

    def again(self, trial_id: str) -> None:
        """A trial is to go on from its last checkpoint, in a new process."""
        self._failures.pop(trial_id, None)
        self._again.append(self.ledger.trials[trial_id])

    def rest(self) -> None:
        """Between two events: make reported epochs durable that have waited long enough, and let them be copied."""
        self.ledger.flush_if_due()
        if self._copier is not None:
            self._copier.offer()

    def close(self) -> bool:
        """Record trials that did not come to an end; true when the search did not come to its end either."""
        left = self.ledger.running()
        for trial in left:
            self.ledger.end(trial, columns.INTERRUPTED, "the search was interrupted")
        self.ledger.compact()
        return bool(left) or not self._nothing_left

    def tune_config(self, trial: TrialRecord, share: Share) -> dict[str, Any]:
        """What the trial's actor is told."""
        return {
            trainable.TRIAL_ID: trial.trial_id,
            trainable.CONFIG: trial.config.to_dict(),
            trainable.FOLDER: str(self._folder(trial.trial_id)),
            trainable.STORAGE: None if self._copier is None else self._copier.storage.uri,
            trainable.THREADS: share.cpus,
            trainable.GPUS: share.gpus,
            trainable.WORKERS: share.workers,
        }

    def _folder(self, trial_id: str) -> Path:
        return self._run.trials / trial_id

    def _judge(self, trial: TrialRecord, result: Mapping[str, Any]) -> str | None:
        """Show sampler and stopping rule an epoch of a trial that is no repeat; why the rule would stop it."""
        if trial.repeat:
            return None
        objectives = trial.costs | {columns.MIOU: result[columns.MIOU]}
        self._sampler.report(trial.trial_id, result[columns.EPOCH], objectives)
        return self._stopping.report(trial.trial_id, result[columns.EPOCH], objectives)

    def _next_job(self) -> _Job | None:
        """What to start next; none while only a running trial may bring more: its repeats, or itself once more."""
        if self._due:
            return self._due.pop(0)
        if not self._exhausted and self._taken < self._num_trials:
            asked = self._sampler.ask()
            if asked is not None:
                return _Job(asked)
            self._exhausted = True
            self.gave_up = (
                f"The search ended after {self._taken} of {self._num_trials} trials: nothing else can be drawn from "
                "the space within the constraints."
            )
        return None if self.ledger.running() else self._end()

    def _end(self) -> NoReturn:
        self._nothing_left = True
        raise StopIteration

    @property
    def taken(self) -> int:
        """Configurations tried; infeasible ones are not counted."""
        return self._taken

    def _why_given_up(self) -> str:
        """For people, after :data:`DRAWS_PER_TRIAL` draws in a row that could not be trained."""
        rows = self.architectures.rows
        nothing_feasible = bool(rows) and all(map(self.architectures.reason, rows))
        closest = f" The closest to the constraints is {self.architectures.closest()}." if nothing_feasible else ""
        return (
            f"The search ended after {self._taken} of {self._num_trials} trials: of its last {DRAWS_PER_TRIAL} draws "
            f"none could be trained.{closest}"
        )

    def _prepare(self, job: _Job, config: TrialConfig) -> TrialRecord:
        """The record of a job whose architecture was measured."""
        row = self.architectures.row(config)
        assert row is not None
        settings: dict[str, Any] = {"training.seed": config.training.seed + job.repeat}
        if config.training.precision == "auto":
            settings["training.precision"] = row[columns.TRAIN_PRECISION]
        return TrialRecord(
            trial_id=job.trial_id,
            configuration=job.draw.trial_id,
            repeat=job.repeat,
            assignment=job.draw.assignment,
            config=config.replace(settings),
            architecture=row,
            started_at=now(),
        )

    def _start(self, trial: TrialRecord) -> TrialRecord:
        self._taken += trial.repeat == 0
        self._folder(trial.trial_id).mkdir(parents=True, exist_ok=True)
        self._run.profile(trial.trial_id).write_text(json.dumps(trial.profile))
        trial.config.save(self._folder(trial.trial_id) / "config.yaml")  # Last: it tells who follows that it starts.
        self.ledger.start(trial)
        return trial

    def _conclude(self, trial: TrialRecord, state: str, reason: str | None) -> None:
        """Record the end of a trial; then its configuration is repeated, or the sampler told of it."""
        ended = self._ended[trial.configuration]
        ended[trial.repeat] = self.ledger.end(trial, state, reason)
        if trial.repeat == 0:
            draw = Draw(trial.configuration, trial.assignment)
            self._due += [_Job(draw, repeat) for repeat in missing_repeats(ended, self._repeats)]
        self._tell_if_whole(trial.configuration)

    def _tell_if_whole(self, configuration: str) -> None:
        ended = self._ended[configuration]
        if not missing_repeats(ended, self._repeats):
            self._tell(summarise([ended[repeat] for repeat in sorted(ended)]))

    def _refuse(self, job: _Job, reason: str) -> None:
        """Record a draw whose values contradict each other."""
        self._taken += 1
        row = {path: columns.cell(value) for path, value in job.draw.assignment.items()}
        row |= {
            columns.TRIAL_ID: job.trial_id,
            columns.CONFIGURATION: job.draw.trial_id,
            columns.REPEAT: job.repeat,
            columns.STATE: columns.FAILED,
            columns.REASON: reason,
            columns.EPOCH: 0,
        }
        self._ended[job.draw.trial_id][0] = self.ledger.record(
            row | {columns.STARTED_AT: now(), columns.ENDED_AT: now()}
        )
        self._tell_if_whole(job.draw.trial_id)

    def _take_up(self) -> list[_Job]:
        """Continue what an earlier process recorded: the runs to go on with, in the order drawn."""
        self._trials.compact(keep=lambda rows: rows.filter(pc.not_equal(rows[columns.STATE], columns.INTERRUPTED)))
        ended = {row[columns.TRIAL_ID]: row for row in self._trials.read().to_pylist()}
        for row in ended.values():
            self._ended[row[columns.CONFIGURATION]][row[columns.REPEAT]] = row
        firsts = [runs[0] for runs in self._ended.values() if 0 in runs]
        self._taken = sum(row[columns.STATE] != columns.INFEASIBLE for row in firsts)
        due: list[_Job] = []
        unfinished = self._sampler.unfinished()
        pending = [draw for draw in unfinished if missing_repeats(self._ended[draw.trial_id], 1)]
        self._report_again(firsts, pending)  # First: what the sampler is told may depend on learning curves.
        for draw in unfinished:
            missing = missing_repeats(self._ended[draw.trial_id], self._repeats)
            due += [_Job(draw, repeat) for repeat in missing]
            self._tell_if_whole(draw.trial_id)
        return due

    def _tell(self, row: Mapping[str, Any]) -> None:
        """Tell the sampler how a configuration ended, now or (after a kill between record and this) on resume."""
        trial_id, state, reason = row[columns.TRIAL_ID], row[columns.STATE], row[columns.REASON]
        if state == columns.COMPLETED:
            self._sampler.tell_completed(trial_id, _objectives(row), reason)
        elif state == columns.STOPPED:
            unused = 1 - row[columns.EPOCH] / row[columns.EPOCHS]
            self._sampler.tell_stopped(trial_id, _objectives(row), unused, reason)
        elif state == columns.INFEASIBLE:
            self._sampler.tell_infeasible(trial_id, self.architectures.excess(row), reason)
        else:
            self._sampler.tell_failed(trial_id, reason)

    def _report_again(self, ended: list[Mapping[str, Any]], pending: list[Draw]) -> None:
        """Show sampler and stopping rule the recorded epochs in the order they came: their state is nothing else."""
        costs = {row[columns.TRIAL_ID]: _objectives(row) for row in ended}
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
                self._sampler.report(row[columns.TRIAL_ID], row[columns.EPOCH], objectives)
                self._stopping.report(row[columns.TRIAL_ID], row[columns.EPOCH], objectives)


def _objectives(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in columns.OBJECTIVES}
