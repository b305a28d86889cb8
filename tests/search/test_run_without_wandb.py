"""A whole search whose W&B server goes away in its middle ends well, and says how to send the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from on_wandb import assert_on_wandb
from real_search import SETTINGS, assert_sound, started
from wandb_server import WandbServer

from search.run_folder import RunFolder

pytest_plugins = "search_fixtures"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_search_outlives_wandb_and_says_how_to_send_the_rest(workplace: Path, server: WandbServer) -> None:
    trials, epochs = 12, 30  # It must not be over before W&B has anything of it.
    size = [f"num_trials={trials}", f"training.epochs={epochs}", "scheduler.name=none"]
    settings = [*SETTINGS, *size, "run=cut", "tracking.drain_s=5"]

    def is_on_wandb(_: RunFolder) -> bool:
        return any(run.history for run in server.runs.values())

    with started(workplace, settings, "cut", is_on_wandb) as process:
        server.die()
        printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    assert "Traceback" not in printed
    assert "python -m search.sync run=cut" in printed
    run = RunFolder(workplace / "runs" / "cut")
    assert_sound(run, trials, epochs)
    server.revive()
    command = [sys.executable, "-m", "search.sync", "run=cut"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_on_wandb(server, run)
