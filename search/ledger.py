"""What is known of every trial while a search runs, and the order in which it becomes durable.

An event first reaches the Parquet tables, then the sampler, then the observers (tracking, terminal). So whatever
an observer shows or Optuna knows, the record has.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from search import columns
from search.architectures import Row, architecture_key
from search.results import Table
from spaces import Assignment
from trainers.config import TrialConfig

_COSTS = (columns.LATENCY_MS, columns.LATENCY_P95_MS, columns.SIZE_MB, columns.PARAMS, columns.MACS)
_DEVICE_LATENCY = {"cpu": columns.LATENCY_CPU_MS, "cuda": columns.LATENCY_GPU_MS}


@dataclass
class TrialRecord:
    """One trial: what it is, what it costs, what it reported."""

    trial_id: str
    configuration: str
    """``trial_id`` of the configuration's first run."""
    repeat: int
    assignment: Assignment
    config: TrialConfig
    architecture: Row
    started_at: datetime.datetime
    epochs: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Epoch to its row of the table ``epochs``."""
    state: str | None = None
    """None while it runs."""
    device: str | None = None
    """Where it trains, once that is known."""

    @property
    def epoch(self) -> int:
        """The last epoch reported."""
        return max(self.epochs, default=0)

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the highest mIoU, the earliest of equals."""
        known = [epoch for epoch, row in self.epochs.items() if not math.isnan(row[columns.MIOU])]
        return max(known, key=lambda epoch: (self.epochs[epoch][columns.MIOU], -epoch), default=None)

    @property
    def costs(self) -> dict[str, float]:
        """The objectives that are known before training."""
        return {name: float(self.architecture[name]) for name in columns.OBJECTIVES if name != columns.MIOU}

    @property
    def profile(self) -> dict[str, float]:
        """All that was measured of its architecture, and counts in the results."""
        return {name: self.architecture[name] for name in _COSTS}

    @property
    def objectives(self) -> dict[str, float]:
        """All objectives, with the mIoU of the best epoch; NaN before the first."""
        best = self.best_epoch
        return {columns.MIOU: math.nan if best is None else self.epochs[best][columns.MIOU]} | self.costs

    def row(self, state: str, reason: str | None, ended_at: datetime.datetime) -> dict[str, Any]:
        """The trial's row of the table ``trials``, with the metrics of its best epoch."""
        best = self.best_epoch
        row: dict[str, Any] = {} if best is None else dict(self.epochs[best])
        for name in (columns.EPOCH_TIME_S, columns.REPORTED_AT):
            row.pop(name, None)
        if self.epochs:
            row[columns.TRAIN_TIME_S] = self.epochs[self.epoch][columns.TRAIN_TIME_S]
        row |= self.profile
        row[columns.LATENCY_CPU_MS] = self.architecture.get(columns.LATENCY_CPU_MS)
        row[_DEVICE_LATENCY[self.architecture[columns.DEVICE]]] = self.architecture[columns.LATENCY_MS]
        row |= {path: columns.cell(value) for path, value in self.assignment.items()}
        return row | {
            columns.TRIAL_ID: self.trial_id,
            columns.CONFIGURATION: self.configuration,
            columns.REPEAT: self.repeat,
            columns.STATE: state,
            columns.REASON: reason,
            columns.EPOCH: self.epoch,
            columns.EPOCHS: self.config.training.epochs,
            columns.BEST_EPOCH: best,
            columns.SEED: self.config.training.seed,
            columns.STARTED_AT: self.started_at,
            columns.ENDED_AT: ended_at,
            columns.DEVICE: self.device,
            columns.ARCHITECTURE: architecture_key(self.config),
            columns.CONFIG: json.dumps(self.config.to_dict()),
        }


class Observer(Protocol):
    """Something that watches a search; it must return quickly and never raise."""

    def trial_started(self, trial: TrialRecord) -> None:
        """A trial begins or goes on."""

    def epoch_reported(self, trial: TrialRecord, row: Mapping[str, Any]) -> None:
        """A new row of ``epochs``."""

    def trial_ended(self, row: Mapping[str, Any]) -> None:
        """The row of ``trials``."""


class Ledger:
    """The trials of a search, their durable rows, and those who watch."""

    def __init__(self, trials: Table, epochs: Table, observers: Sequence[Observer]) -> None:
        self.trials: dict[str, TrialRecord] = {}
        """Those without an end by id, in the order they started."""
        self._trial_rows, self._epoch_rows = trials, epochs
        self._observers = observers
        self.recorded = _epochs_by_trial(epochs)
        """Rows of ``epochs`` by trial and epoch that an earlier process recorded."""

    def start(self, trial: TrialRecord) -> None:
        """A trial begins; what an earlier process recorded of it is taken over."""
        trial.epochs = self.recorded.pop(trial.trial_id, {})
        self.trials[trial.trial_id] = trial
        for observer in self._observers:
            observer.trial_started(trial)

    def report(self, trial_id: str, metrics: Mapping[str, Any]) -> TrialRecord:
        """A trial finished an epoch; one that is recorded already (told again after a restart) changes nothing.

        Of ``metrics`` the columns of the table ``epochs`` are kept; Ray adds its own.
        """
        trial = self.trials[trial_id]
        trial.device = metrics.get(columns.DEVICE)
        epoch = metrics[columns.EPOCH]
        if epoch not in trial.epochs:
            known = {name: _value(name, metrics[name]) for name in metrics if name in self._epoch_rows.columns}
            row = known | {columns.TRIAL_ID: trial_id, columns.REPORTED_AT: now()}
            trial.epochs[epoch] = row
            self._epoch_rows.append(row)
            for observer in self._observers:
                observer.epoch_reported(trial, row)
        return trial

    def end(self, trial: TrialRecord, state: str, reason: str | None) -> Mapping[str, Any]:
        """A trial ended; returns its row, which is durable by then."""
        trial.state = state
        self._epoch_rows.flush()
        self.trials.pop(trial.trial_id, None)  # One that breaks a constraint never ran.
        return self.record(trial.row(state, reason, now()))

    def record(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make a row of ``trials`` durable and show it around."""
        self._trial_rows.append(row)
        self._trial_rows.flush()
        for observer in self._observers:
            observer.trial_ended(row)
        return row

    def running(self) -> list[TrialRecord]:
        """The trials without an end, in the order they started."""
        return list(self.trials.values())

    def flush_if_due(self) -> None:
        """Make reported epochs durable that have waited long enough."""
        self._epoch_rows.flush_if_due()

    def compact(self) -> None:
        """Merge the many small files of a search into one a table."""
        self._epoch_rows.compact()
        self._trial_rows.compact()


def _value(name: str, metric: Any) -> Any:
    """``metric`` as the table has it: the IoU of an absent class is null there, not a number that is none."""
    absent = name.startswith(columns.iou_column("")) and math.isnan(metric)
    return None if absent else metric


def now() -> datetime.datetime:
    """UTC."""
    return datetime.datetime.now(datetime.UTC)


def _epochs_by_trial(table: Table) -> dict[str, dict[int, Mapping[str, Any]]]:
    known: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in table.read().to_pylist():
        known.setdefault(row[columns.TRIAL_ID], {})[row[columns.EPOCH]] = row
    return known
