"""The search shows its stopping rule whole learning curves, though Tune asks nothing about a trial's last epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from untrained_search import BASE, open_search

from search import columns
from search.engine import Search
from search.front_stopping import FrontStopping
from search.ledger import TrialRecord
from search.run_folder import RunFolder
from spaces import Space

EPOCHS = 4
LONGER = BASE.replace({"training.epochs": EPOCHS})
MIOUS = {"t0000": 0.6, "t0001": 0.59, "t0002": 0.58, "t0003": 0.1}
MANY = Space.from_dict("many", {"parameters": {"optimizer.lr": {"values": [1e-2, 5e-3, 1e-3, 1e-4]}}})


def train_as_tune_does(search: Search, trial: TrialRecord) -> None:
    """Ask whether the trial goes on, then report, after every epoch; but after the last one only report."""
    for epoch in range(1, EPOCHS + 1):
        row: dict[str, Any] = {columns.EPOCH: epoch, columns.MIOU: MIOUS[trial.trial_id], columns.TRAIN_TIME_S: 1.0}
        stopped = epoch < EPOCHS and search.stop_reason(trial.trial_id, row) is not None
        search.report(trial.trial_id, row)
        if stopped:
            break
    search.end(trial.trial_id)


def test_a_trial_that_completed_ones_dominate_is_stopped_in_the_same_sitting(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    search, _ = open_search(run, MANY, 4, stopping=FrontStopping(1, EPOCHS), base=LONGER)
    for _ in MIOUS:
        trial = search.next_trial()
        assert trial is not None
        train_as_tune_does(search, trial)
    ends = {row[columns.TRIAL_ID]: (row[columns.STATE], row[columns.EPOCH]) for row in run.read_trials().to_pylist()}
    assert ends == dict.fromkeys(("t0000", "t0001", "t0002"), (columns.COMPLETED, EPOCHS)) | {
        "t0003": (columns.STOPPED, 1)
    }
