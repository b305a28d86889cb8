"""A search with trials that fail or may not be trained: they are recorded, and the search goes on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from on_wandb import assert_on_wandb
from real_search import SETTINGS, SPACE, rows, run
from wandb_server import WandbServer

from search import columns
from search.run_folder import RunFolder

pytest_plugins = "search_fixtures"


@pytest.fixture(scope="module")
def troubled(workplace: Path) -> RunFolder:
    """A search under two seeds whose first trial cannot be trained, and which may not train every architecture."""
    rates = "optimizer.lr: {values: [1.0e-3, 5.0e-3, 1.0e-2, 1.0e30]}"
    wild = re.sub("optimizer.lr: {.*}", rates, SPACE).replace("lr: 5.0e-3", "lr: 1.0e30")
    (workplace / "conf" / "space" / "wild.yaml").write_text(wild)
    settings = [item for item in SETTINGS if item != "space=tiny"]
    code, _ = run(
        workplace, *settings, "space=wild", "run=wild", "num_trials=4", "repeats=2", "training.epochs=2",
        "optimizer.name=sgd", "constraints.params=100000", "sampler.name=random", "tracking.mode=offline",
    )  # fmt: skip
    assert code == 0
    return RunFolder(workplace / "runs" / "wild")


def test_failed_trial_does_not_end_the_search(troubled: RunFolder) -> None:
    trials = {row[columns.TRIAL_ID]: row for row in rows(troubled, "trials")}
    assert trials["t0000"][columns.STATE] == columns.FAILED
    assert "loss became" in trials["t0000"][columns.REASON]
    assert "Traceback" in (troubled.trials / "t0000" / "error.txt").read_text()
    tried = {row[columns.CONFIGURATION] for row in trials.values() if row[columns.STATE] != columns.INFEASIBLE}
    assert len(tried) == 4


def test_constraint_keeps_architectures_from_training(troubled: RunFolder) -> None:
    trials = rows(troubled, "trials")
    refused = [row for row in trials if row[columns.STATE] == columns.INFEASIBLE]
    assert refused
    assert all(row[columns.EPOCH] == 0 and "params" in row[columns.REASON] for row in refused)
    trained = [row for row in trials if row[columns.STATE] == columns.COMPLETED]
    assert trained
    assert all(row[columns.PARAMS] <= 100_000 for row in trained)


def test_offline_leaves_for_wandb_what_sync_then_sends(
    workplace: Path, server: WandbServer, troubled: RunFolder
) -> None:
    trials = {row[columns.TRIAL_ID]: row for row in rows(troubled, "trials")}
    files = {
        file.stem.partition("-")[2].partition("-")[2]: file for file in troubled.wandb.glob("offline-run-*/*.wandb")
    }
    assert files.keys() == {*trials, "summary"}
    records = inspect_offline(files["t0000"], workplace)
    assert columns.FAILED in json.dumps(records)
    command = [sys.executable, "-m", "search.sync", "run=wild"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(trials)} trials of run wild are on W&B" in done.stdout
    assert_on_wandb(server, troubled)


def inspect_offline(file: Path, workplace: Path) -> list[dict[str, Any]]:
    """The records of an offline run, decoded by wandb's own command."""
    wandb = shutil.which("wandb", path=str(Path(sys.executable).parent))
    assert wandb is not None
    done = subprocess.run(
        [wandb, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, cwd=workplace, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_only_completed_trials_are_repeated_under_the_next_seed(troubled: RunFolder) -> None:
    seeds: dict[str, list[int]] = {}
    for row in rows(troubled, "trials"):
        seeds.setdefault(row[columns.CONFIGURATION], []).append(row[columns.SEED])
    firsts = {row[columns.TRIAL_ID]: row[columns.STATE] for row in rows(troubled, "trials") if not row[columns.REPEAT]}
    assert columns.COMPLETED in firsts.values()
    for configuration, state in firsts.items():
        assert sorted(seeds[configuration]) == ([0, 1] if state == columns.COMPLETED else [0])
