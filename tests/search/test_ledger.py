"""The ledger: what a trial reported, once and durable, and in which order it is told."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from search import columns
from search.architectures import architecture_key
from search.ledger import Ledger, TrialRecord, now
from search.results import Table, read_table
from trainers.config import TrialConfig

CLASSES = ("grass", "car")
PARAMETERS = {"optimizer.lr": pa.float64(), "model.aspp_rates": pa.string()}
PROFILE = {
    columns.LATENCY_MS: 7.0,
    columns.LATENCY_P95_MS: 8.0,
    columns.SIZE_MB: 2.5,
    columns.PARAMS: 600_000,
    columns.MACS: 10**9,
    columns.DEVICE: "cpu",
    columns.DEVICE_NAME: "a processor",
}


class Witness:
    """Observer that notes what it is shown, and what was on disk by then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seen: list[tuple[str, str, int]] = []

    def trial_started(self, trial: TrialRecord) -> None:
        self.seen.append(("started", trial.trial_id, trial.epoch))

    def epoch_reported(self, trial: TrialRecord, row: Mapping[str, Any]) -> None:
        self.seen.append(("epoch", trial.trial_id, row[columns.EPOCH]))

    def trial_ended(self, row: Mapping[str, Any]) -> None:
        on_disk = read_table(self._folder / "trials").column(columns.TRIAL_ID).to_pylist()
        assert row[columns.TRIAL_ID] in on_disk, "an observer shows only what is durable"
        self.seen.append(("ended", row[columns.TRIAL_ID], read_table(self._folder / "epochs").num_rows))


def open_ledger(folder: Path) -> tuple[Ledger, Witness]:
    witness = Witness(folder)
    trials = Table(folder / "trials", columns.trials_schema(PARAMETERS, CLASSES))
    return Ledger(trials, Table(folder / "epochs", columns.epochs_schema(CLASSES)), [witness]), witness


def trial_of(trial_id: str, device: str = "cpu") -> TrialRecord:
    config = TrialConfig().replace({"optimizer.lr": 3e-3, "training.epochs": 5, "training.seed": 9})
    assignment = {"optimizer.lr": 3e-3, "model.aspp_rates": [6, 12]}
    return TrialRecord(trial_id, trial_id, 0, assignment, config, PROFILE | {columns.DEVICE: device}, now())


def result(epoch: int, miou: float) -> dict[str, Any]:
    metrics = {
        columns.EPOCH: epoch,
        columns.MIOU: miou,
        columns.TRAIN_LOSS: 2.0 / epoch,
        columns.TRAIN_TIME_S: 3.0 * epoch,
    }
    return metrics | {
        columns.DEVICE: "a processor",
        columns.EPOCH_TIME_S: 3.0,
        "iou/grass": miou,
        "iou/car": math.nan,
        "training_iteration": 99,
    }


def test_a_trial_from_its_start_to_its_row(tmp_path: Path) -> None:
    ledger, witness = open_ledger(tmp_path)
    trial = trial_of("t0003")
    ledger.start(trial)
    for epoch, miou in enumerate([0.2, 0.5, 0.4], start=1):
        assert ledger.report("t0003", result(epoch, miou)) is trial
    assert (trial.epoch, trial.best_epoch, trial.state) == (3, 2, None)
    assert trial.objectives == {columns.MIOU: 0.5, columns.LATENCY_MS: 7.0, columns.SIZE_MB: 2.5}
    ledger.end(trial, columns.STOPPED, "below its peers")
    (row,) = read_table(tmp_path / "trials").to_pylist()
    expected = {
        columns.TRIAL_ID: "t0003",
        columns.STATE: "stopped",
        columns.REASON: "below its peers",
        columns.EPOCH: 3,
        columns.EPOCHS: 5,
        columns.BEST_EPOCH: 2,
        columns.MIOU: 0.5,
        columns.TRAIN_LOSS: 1.0,
        columns.TRAIN_TIME_S: 9.0,
        columns.SEED: 9,
        columns.LATENCY_MS: 7.0,
        columns.LATENCY_CPU_MS: 7.0,
        columns.LATENCY_GPU_MS: None,
        columns.SIZE_MB: 2.5,
        columns.PARAMS: 600_000,
        columns.DEVICE: "a processor",
        columns.ARCHITECTURE: architecture_key(trial.config),
        "optimizer.lr": 3e-3,
        "model.aspp_rates": "[6, 12]",
        "iou/grass": 0.5,
        "iou/car": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert TrialConfig.from_dict(json.loads(row[columns.CONFIG])) == trial.config
    assert row[columns.STARTED_AT] <= row[columns.ENDED_AT]
    epochs = [("epoch", "t0003", epoch) for epoch in (1, 2, 3)]
    assert witness.seen == [("started", "t0003", 0), *epochs, ("ended", "t0003", 3)]


def test_an_epoch_told_twice_is_recorded_once(tmp_path: Path) -> None:
    ledger, witness = open_ledger(tmp_path)
    ledger.start(trial_of("t0000"))
    for epoch, miou in [(1, 0.1), (2, 0.2), (1, 0.9), (2, 0.9), (3, 0.3)]:
        ledger.report("t0000", result(epoch, miou))
    ledger.end(ledger.trials["t0000"], columns.COMPLETED, None)
    assert read_table(tmp_path / "epochs").column(columns.MIOU).to_pylist() == [0.1, 0.2, 0.3]
    assert len([event for event in witness.seen if event[0] == "epoch"]) == 3


def test_a_later_process_takes_over_what_was_recorded(tmp_path: Path) -> None:
    first, _ = open_ledger(tmp_path)
    first.start(trial_of("t0000"))
    first.report("t0000", result(1, 0.4))
    first.report("t0000", result(2, 0.3))
    first._epoch_rows.flush()
    ledger, witness = open_ledger(tmp_path)
    assert ledger.recorded.keys() == {"t0000"}
    ledger.start(trial_of("t0000"))
    for epoch, miou in [(1, 0.4), (2, 0.3), (3, 0.2)]:
        ledger.report("t0000", result(epoch, miou))
    ledger.end(ledger.trials["t0000"], columns.COMPLETED, None)
    assert read_table(tmp_path / "epochs").column(columns.EPOCH).to_pylist() == [1, 2, 3]
    assert read_table(tmp_path / "trials").column(columns.BEST_EPOCH).to_pylist() == [1]
    assert witness.seen == [("started", "t0000", 2), ("epoch", "t0000", 3), ("ended", "t0000", 3)]
    assert ledger.running() == []


def test_the_best_epoch_is_the_earliest_of_equals_and_never_no_number() -> None:
    trial = trial_of("t0000")
    assert (trial.epoch, trial.best_epoch) == (0, None)
    assert math.isnan(trial.objectives[columns.MIOU])
    mious = [math.nan, 0.3, 0.5, 0.5, math.nan]
    trial.epochs = {epoch: {columns.MIOU: miou} for epoch, miou in enumerate(mious, start=1)}
    assert (trial.epoch, trial.best_epoch) == (5, 3)
    trial.epochs = {1: {columns.MIOU: math.nan}}
    assert trial.best_epoch is None


def test_a_trial_that_never_trained_has_its_costs(tmp_path: Path) -> None:
    ledger, _ = open_ledger(tmp_path)
    ledger.end(trial_of("t0000", device="cuda"), columns.INFEASIBLE, "latency_ms 7 > 5")
    (row,) = read_table(tmp_path / "trials").to_pylist()
    known = (columns.STATE, columns.EPOCH, columns.BEST_EPOCH, columns.MIOU, columns.TRAIN_TIME_S, columns.SIZE_MB)
    assert [row[name] for name in known] == ["infeasible", 0, None, None, None, 2.5]
    assert (row[columns.LATENCY_CPU_MS], row[columns.LATENCY_GPU_MS]) == (None, 7.0)


def test_running_are_those_without_an_end(tmp_path: Path) -> None:
    ledger, _ = open_ledger(tmp_path)
    for name in ("t0000", "t0001", "t0002"):
        ledger.start(trial_of(name))
    ledger.end(ledger.trials["t0001"], columns.FAILED, "RuntimeError: no")
    assert [trial.trial_id for trial in ledger.running()] == ["t0000", "t0002"]


def test_rows_survive_compaction(tmp_path: Path) -> None:
    ledger, _ = open_ledger(tmp_path)
    for name in ("t0000", "t0001"):
        ledger.start(trial_of(name))
        ledger.report(name, result(1, 0.1))
        ledger.end(ledger.trials[name], columns.COMPLETED, None)
    ledger.compact()
    assert [len(list((tmp_path / name).glob("*"))) for name in ("trials", "epochs")] == [1, 1]
    assert read_table(tmp_path / "trials").column(columns.TRIAL_ID).to_pylist() == ["t0000", "t0001"]


@pytest.mark.parametrize(("value", "stored"), [([1, 2], "[1, 2]"), (True, True), ("a", "a"), (None, None), (0.5, 0.5)])
def test_a_parameter_fits_a_cell(value: Any, stored: Any) -> None:
    assert columns.cell(value) == stored
