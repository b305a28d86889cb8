"""A node whose memory runs out: Ray ends a trial's process for it, and the search goes on."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from scripted_trials import actor_with, open_search

from search import columns, trainable, tune_bridge
from search.capacity import Capacity, Patience
from search.cluster_config import ResourcesConfig
from search.resources import Share, Sharing
from search.run_folder import RunFolder

pytestmark = pytest.mark.cluster


def endless(config: dict[str, Any], epoch: int) -> None:  # noqa: ARG001
    """Ray has the time to find that the trial uses memory."""
    time.sleep(600)


def test_a_trial_that_ray_ends_to_free_memory_fails_with_that_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "3000")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    monkeypatch.setattr(trainable, "TrialActor", actor_with(endless, 2, 0.0))
    run, place = RunFolder(tmp_path / "mine"), tempfile.mkdtemp(prefix="rm")
    ray.init(address="local", num_cpus=1, include_dashboard=False, _temp_dir=place, logging_level=logging.ERROR)
    try:
        search, capacity = open_search(run, 1), Capacity()
        sharing = Sharing(Share(1, 0, 1), ResourcesConfig(), ())
        tune_bridge.run_trials(search, sharing, capacity, Patience(print, None, capacity), run.ray)
    finally:
        ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)
    assert not search.close()
    [row] = run.read_trials().to_pylist()
    assert row[columns.STATE] == columns.FAILED
    assert "process died 3 times" in row[columns.REASON]
    assert "the node running low on memory" in row[columns.REASON]
