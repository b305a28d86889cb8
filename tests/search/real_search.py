"""A whole search through its command: real Ray, Optuna, Parquet and W&B client, on the built-in data set."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pyarrow.dataset as ds
import pytest

from search import columns
from search.run import main
from search.run_folder import RunFolder

SPACE = """\
question: Does a tiny UNet beat a tiny DeepLab?
parameters:
  model.architecture: {values: [unet, deeplab]}
  model.base_channels: {values: [2, 4], when: {model.architecture: unet}}
  optimizer.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-2}
baselines:
  - {model.architecture: unet, model.base_channels: 4, optimizer.lr: 5.0e-3}
fixed: {model.size: small, model.backbone: mobilenet_v3_small, model.aspp: false, model.decoder_channels: 8,
        training.batch_size: 4, training.precision: fp32}
"""
SETTINGS = ["space=tiny", "data.height=32", "data.width=32", "data.max_images=12"]


def command(*settings: str) -> list[str]:
    return [sys.executable, "-m", "search.run", "--config-dir", "conf", *settings]


def run(workplace: Path, *settings: str) -> tuple[int, str]:
    """Exit code and output of a search that nobody kills: in this process, which has imported what takes so long."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(workplace)
        patch.setattr(sys, "argv", ["search.run", "--config-dir", "conf", *settings])
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, printed.getvalue()


@contextmanager
def started(
    workplace: Path, settings: list[str], name: str, ready: Callable[[RunFolder], bool], wait_s: float = 180.0
) -> Iterator[subprocess.Popen[str]]:
    """A search under way, as soon as ``ready`` says so of its folder."""
    process = subprocess.Popen(
        command(*settings), cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    run_folder = RunFolder(workplace / "runs" / name)
    deadline = time.monotonic() + wait_s
    try:
        while not ready(run_folder):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the search never got that far"
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def rows(run_folder: RunFolder, table: str) -> list[dict[str, Any]]:
    """Read as a stranger does: pyarrow on the folder, none of our code."""
    found: list[dict[str, Any]] = ds.dataset(run_folder.results / table, format="parquet").to_table().to_pylist()
    return found


def assert_sound(run_folder: RunFolder, num_trials: int, epochs: int) -> None:
    """Every trial exactly once, no (trial, epoch) twice, no gap, and Optuna agrees."""
    trials = rows(run_folder, "trials")
    assert len(trials) == len({row[columns.TRIAL_ID] for row in trials}) == num_trials
    assert {row[columns.STATE] for row in trials} <= {columns.COMPLETED, columns.STOPPED}
    reported: dict[str, list[int]] = {}
    for row in rows(run_folder, "epochs"):
        reported.setdefault(row[columns.TRIAL_ID], []).append(row[columns.EPOCH])
    for row in trials:
        expected = epochs if row[columns.STATE] == columns.COMPLETED else row[columns.EPOCH]
        assert sorted(reported[row[columns.TRIAL_ID]]) == list(range(1, expected + 1))
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{run_folder.storage}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * num_trials
    completed = [row for row in trials if row[columns.STATE] == columns.COMPLETED]
    feasible = [trial for trial in study.trials if all(value <= 0 for value in trial.constraints.values())]
    assert len(feasible) == len(completed)
