"""Searches whose driver or workers are killed: they go on where they were, and nothing that was reported is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from on_wandb import assert_on_wandb, place_of
from real_search import SETTINGS, assert_sound, rows, run, started
from wandb_server import WandbServer

from search import columns
from search.run_folder import RunFolder

pytest_plugins = "search_fixtures"

pytestmark = pytest.mark.alone

START = [*SETTINGS, "run=broken", "num_trials=9", "training.epochs=6", "scheduler.name=asha", "scheduler.eta=2"]


def some_trial_ended(run_folder: RunFolder) -> bool:
    return any((run_folder.results / "trials").glob("*.parquet")) and any(run_folder.trials.glob("*/last.pt"))


def ended(run_folder: RunFolder) -> dict[str, dict[str, Any]]:
    return {row[columns.TRIAL_ID]: row for row in rows(run_folder, "trials")}


def reported(run_folder: RunFolder) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row[columns.TRIAL_ID], row[columns.EPOCH]): row for row in rows(run_folder, "epochs")}


@pytest.fixture(scope="module")
def killed(workplace: Path, server: WandbServer) -> RunFolder:  # noqa: ARG001
    """A search whose driver was killed once a trial had ended and another was under way."""
    with started(workplace, START, "broken", some_trial_ended) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return RunFolder(workplace / "runs" / "broken")


def test_a_search_that_is_killed_and_interrupted_goes_on_where_it_was_and_further(
    workplace: Path, server: WandbServer, killed: RunFolder
) -> None:
    trials, epochs = ended(killed), reported(killed)
    assert trials

    def more_ended(run_folder: RunFolder) -> bool:
        return len(ended(run_folder)) > len(trials)

    with started(workplace, ["resume=broken"], "broken", more_ended) as process:
        process.send_signal(signal.SIGTERM)  # As a scheduler ends a job; Ctrl-C takes the same way.
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert "python -m search.run resume=broken" in printed
    assert columns.INTERRUPTED in [row[columns.STATE] for row in rows(killed, "trials")]
    assert (killed.report / "index.html").exists()
    assert server.sweeps[str(place_of(killed).sweep_id)].state == "PAUSED"

    assert run(workplace, "resume=broken", "num_trials=10")[0] == 0
    assert_sound(killed, 10, 6)
    assert {trial_id: ended(killed)[trial_id] for trial_id in trials} == trials
    assert {key: reported(killed)[key] for key in epochs} == epochs
    assert_on_wandb(server, killed)


@pytest.mark.slow
def test_killed_trial_process_goes_on_from_its_checkpoint(workplace: Path) -> None:
    settings = [item.replace("broken", "bereft") for item in START]
    with started(workplace, settings, "bereft", lambda folder: any(folder.trials.glob("*/last.pt"))) as process:
        found = subprocess.run(["pgrep", "-f", "ray::TrialActor"], capture_output=True, text=True, check=True)
        actors = [int(pid) for pid in found.stdout.split() if descends(int(pid), process.pid)]
        os.kill(actors[0], signal.SIGKILL)
        printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert_sound(RunFolder(workplace / "runs" / "bereft"), 9, 6)


def descends(pid: int, ancestor: int) -> bool:
    """Whether ``ancestor`` is among the parents of ``pid``."""
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
