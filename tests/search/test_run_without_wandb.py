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
    settings = [*SETTINGS, "run=cut", "num_trials=4", "training.epochs=4", "scheduler.name=none", "tracking.drain_s=5"]

    def is_on_wandb(_: RunFolder) -> bool:
        return any(run.history for run in server.runs.values())

    with started(workplace, settings, "cut", is_on_wandb) as process:
        server.die()
        printed, _ = process.communicate(timeout=400)
    assert process.returncode == 0, printed
    assert "Traceback" not in printed
    assert "python -m search.sync run=cut" in printed
    run = RunFolder(workplace / "runs" / "cut")
    assert_sound(run, 4, 4)
    server.revive()
    command = [sys.executable, "-m", "search.sync", "run=cut"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_on_wandb(server, run)
