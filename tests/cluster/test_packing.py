"""Trials on clusters whose capacity is shared, grows, shrinks and ends: the real search through real Ray Tune.

The GPUs are declared, the trials are scripts, and a node is a raylet of its own.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from scripted_trials import BASE, RATES, Script, actor_with, events, most_at_a_time, open_search

from cluster.connect import alive_nodes
from search import columns, trainable, tune_bridge
from search.capacity import Capacity, Patience
from search.cluster_config import ResourcesConfig
from search.resources import Share, Sharing
from search.retries import PROCESS_RETRIES
from search.run_folder import RunFolder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NOTICE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}
"""By itself Ray takes half a minute to notice that a node is dead."""


class Nodes:
    """A cluster whose head trains nothing."""

    def __init__(self) -> None:
        self._place = tempfile.mkdtemp(prefix="rp")  # Short: the paths of sockets may have 107 bytes.
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": self._place}
        # Nodes are added from other threads, where Ray could not set what ends them with this process.
        self._cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def add(self, cpus: int, gpus: int = 0) -> Any:
        return self._cluster.add_node(num_cpus=cpus, num_gpus=gpus)

    def lose(self, node: Any) -> None:
        """As when a machine loses its power; returns once Ray has noticed."""
        self._cluster.remove_node(node, allow_graceful=False)
        until(lambda: node.node_id not in {there.node_id for there in alive_nodes()})

    def clear(self) -> None:
        for node in list(self._cluster.worker_nodes):
            self.lose(node)

    def close(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()  # type: ignore[no-untyped-call]
        shutil.rmtree(self._place, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    # The scripts: Ray's workers cannot import this module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in NOTICE.items():
            patch.setenv(name, value)
        nodes = Nodes()
        yield nodes
        nodes.close()


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """The cluster, without nodes to train on before and after."""
    yield cluster
    cluster.clear()


@dataclass
class Ran:
    """What came of a search."""

    run: RunFolder
    patience: Patience
    said: list[str]
    interrupted: bool = False
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def assert_every_trial_once(self, trials: int) -> None:
        recorded = self.run.read_trials().to_pylist()
        assert sorted(row[columns.TRIAL_ID] for row in recorded) == [f"t{number:04}" for number in range(trials)]
        epochs = [(row[columns.TRIAL_ID], row[columns.EPOCH]) for row in self.run.read_epochs().to_pylist()]
        assert len(epochs) == len(set(epochs)) == sum(row[columns.EPOCH] for row in recorded)


def search_on(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    share: Share,
    *,
    trials: int,
    pace_s: float = 0.3,
    start: Callable[[dict[str, Any]], None] = lambda _: None,
    patience_s: float | None = None,
    share_of: Callable[[float], Share] | None = None,
    meanwhile: Callable[[RunFolder], None] = lambda _: None,
) -> Ran:
    """A search of ``trials`` with two epochs each, and ``meanwhile`` beside it."""
    run = RunFolder(folder / "mine")
    search = open_search(run, trials)
    monkeypatch.setattr(trainable, "TrialActor", actor_with(script, BASE.training.epochs, pace_s, start))
    sharing = Sharing(share, ResourcesConfig(), ())
    if share_of is not None:
        monkeypatch.setattr(sharing, "of", lambda trial, _: share_of(trial.optimizer.lr))
        sharing.least = min(map(share_of, RATES), key=lambda item: item.gpus)
    said: list[str] = []
    capacity = Capacity()
    patience = Patience(said.append, patience_s, capacity)
    beside = threading.Thread(target=meanwhile, args=(run,))
    beside.start()
    tune_bridge.run_trials(search, sharing, capacity, patience, run.ray)
    beside.join()
    ran = Ran(run, patience, said, interrupted=search.close())
    ran.rows = {row[columns.TRIAL_ID]: row for row in run.read_trials().to_pylist()}
    return ran


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def well(config: dict[str, Any], epoch: int) -> None:
    """Nothing goes wrong."""


def together(first: int) -> Script:
    """The first trials meet in their first epoch, however long a process takes to start."""

    def script(config: dict[str, Any], epoch: int) -> None:
        trials = Path(config["folder"]).parent
        members = [trials / f"t{number:04}" / "here" for number in range(first)]
        own = trials / config["id"] / "here"
        if epoch == 1 and own in members:
            own.touch()
            deadline = time.monotonic() + 120
            while not all(file.exists() for file in members) and time.monotonic() < deadline:
                time.sleep(0.05)

    return script


def test_two_trials_share_a_gpu_and_none_is_drawn_before_there_is_room(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add(cpus=8, gpus=1)
    ran = search_on(tmp_path, monkeypatch, together(2), Share(1, 0.5, 2), trials=5)
    ran.assert_every_trial_once(5)
    assert most_at_a_time(ran.run.trials) == 2
    starts = sorted(row[columns.STARTED_AT] for row in ran.rows.values())
    ends = sorted(row[columns.ENDED_AT] for row in ran.rows.values())
    assert all(start >= end for start, end in zip(starts[2:], ends, strict=False)), "each draw knows all that ended"


def test_trials_of_different_parts_run_beside_each_other(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add(cpus=8, gpus=1)

    def share_of(lr: float) -> Share:
        return Share(1, 1.0 if lr in (RATES[1], RATES[4], RATES[6]) else 0.25, 1)

    ran = search_on(tmp_path, monkeypatch, well, share_of(0.0), trials=8, pace_s=3.0, share_of=share_of)
    ran.assert_every_trial_once(8)
    assert {row[columns.STATE] for row in ran.rows.values()} == {columns.COMPLETED}
    assert {line["gpus"] for happened in events(ran.run.trials).values() for line in happened} == {0.25, 1.0}
    assert most_at_a_time(ran.run.trials) > 1
    assert most_at_a_time(ran.run.trials, lambda line: float(line["gpus"])) <= 1


def test_the_workers_of_a_trial_are_reserved_as_a_whole(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add(cpus=3)
    nodes.add(cpus=3)
    ran = search_on(tmp_path, monkeypatch, well, Share(1, 0, 1, workers=4), trials=3)
    ran.assert_every_trial_once(3)
    assert most_at_a_time(ran.run.trials, lambda line: float(line["workers"])) == 4
    until(lambda: ray.available_resources().get("CPU") == 6)  # type: ignore[no-untyped-call]


def test_a_trial_out_of_memory_has_a_larger_part_once_and_is_counted_once(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add(cpus=8, gpus=1)

    def script(config: dict[str, Any], epoch: int) -> str | None:
        needs = {"t0000": 0.5, "t0001": 0.9}.get(config["id"], 0.0)
        return "OutOfMemoryError: CUDA out of memory." if epoch == 2 and config["gpus"] < needs else None

    ran = search_on(tmp_path, monkeypatch, script, Share(1, 0.25, 4), trials=4)
    ran.assert_every_trial_once(4)
    happened = events(ran.run.trials)
    parts = {trial: [(line["epoch"], line["gpus"]) for line in happened[trial]] for trial in happened}
    assert parts["t0000"] == [(1, 0.25), (2, 0.25), (2, 0.5)], "it went on from its checkpoint"
    assert parts["t0001"] == [(1, 0.25), (2, 0.25), (2, 0.5)]
    assert parts["t0002"] == parts["t0003"] == [(1, 0.25), (2, 0.25)]
    states = {trial: row[columns.STATE] for trial, row in ran.rows.items()}
    assert states == dict.fromkeys(states, columns.COMPLETED) | {"t0001": columns.FAILED}
    assert ran.rows["t0001"][columns.REASON].startswith("Out of GPU memory with 0.25 of a GPU, and again with 0.5.")


def test_a_process_that_dies_every_time_ends_as_failed(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add(cpus=1)

    def script(config: dict[str, Any], epoch: int) -> None:
        if config["id"] == "t0001" and epoch == 2:
            with Path(config["folder"], "deaths").open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)

    ran = search_on(tmp_path, monkeypatch, script, Share(1, 0, 1), trials=3)
    ran.assert_every_trial_once(3)
    assert (ran.run.trials / "t0001" / "deaths").read_text() == "x" * (1 + PROCESS_RETRIES)
    assert {trial: row[columns.STATE] for trial, row in ran.rows.items()} == {
        "t0000": columns.COMPLETED,
        "t0001": columns.FAILED,
        "t0002": columns.COMPLETED,
    }
    assert ran.rows["t0001"][columns.EPOCH] == 1
    assert "process died 3 times" in ran.rows["t0001"][columns.REASON]
    assert "killed by the OOM killer" in ran.rows["t0001"][columns.REASON], "Ray's guess at the cause"


def test_a_node_that_joins_later_is_used(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.add(cpus=1)

    def join(run: RunFolder) -> None:
        until((run.trials / "t0000" / "here").exists)
        nodes.add(cpus=2)

    ran = search_on(tmp_path, monkeypatch, together(3), Share(1, 0, 1), trials=4, meanwhile=join)
    ran.assert_every_trial_once(4)
    assert most_at_a_time(ran.run.trials) == 3
    assert len({line["node"] for happened in events(ran.run.trials).values() for line in happened}) == 2


def test_a_process_that_starts_slowly_is_waited_for_while_trials_end_on_others(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add(cpus=2)

    def start(config: dict[str, Any]) -> None:
        if config["id"] != "t0000":
            time.sleep(3)

    ran = search_on(tmp_path, monkeypatch, well, Share(1, 0, 2), trials=8, start=start)
    ran.assert_every_trial_once(8)
    assert most_at_a_time(ran.run.trials) == 2
    assert len({line["process"] for happened in events(ran.run.trials).values() for line in happened}) == 2


def test_lost_nodes_do_not_use_up_the_retries_of_a_process(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = PROCESS_RETRIES + 1
    first = nodes.add(cpus=1)

    def script(config: dict[str, Any], epoch: int) -> None:
        deaths = Path(config["folder"], "begun")
        with deaths.open("a") as file:
            file.write("x")
        if epoch == 2 and deaths.stat().st_size <= 1 + times:
            time.sleep(600)

    def lose(run: RunFolder) -> None:
        begun, node = run.trials / "t0000" / "begun", first
        for count in range(times):
            until(lambda: begun.exists() and begun.stat().st_size == 2 + count)  # noqa: B023
            new = nodes.add(cpus=1)
            nodes.lose(node)
            node = new

    ran = search_on(tmp_path, monkeypatch, script, Share(1, 0, 1), trials=1, meanwhile=lose)
    ran.assert_every_trial_once(1)
    assert ran.rows["t0000"][columns.STATE] == columns.COMPLETED
    assert [line["epoch"] for line in events(ran.run.trials)["t0000"]] == [1, 2], "from its checkpoint every time"


def test_without_room_the_search_says_so_and_goes_on_when_there_is_some(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.capacity.NOTICE_S", 1.0)
    nodes.add(cpus=1)

    def join(run: RunFolder) -> None:
        until((run.trials / "t0000").exists)
        time.sleep(4)
        nodes.add(cpus=2)

    ran = search_on(tmp_path, monkeypatch, well, Share(2, 0, 1), trials=2, patience_s=100, meanwhile=join)
    ran.assert_every_trial_once(2)
    assert not ran.interrupted
    assert len(ran.said) == 2
    assert "What is next needs 2 CPU cores, but no nodes have that: there are" in ran.said[0]
    assert "1 node of 1 core" in ran.said[0]
    assert "the search goes on" in ran.said[1]


def test_patience_ends_and_the_search_can_go_on_later(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.capacity.NOTICE_S", 1.0)
    node = nodes.add(cpus=1)

    def lose(run: RunFolder) -> None:
        until(lambda: "t0001" in events(run.trials))
        nodes.lose(node)

    ran = search_on(tmp_path, monkeypatch, well, Share(1, 0, 1), trials=3, pace_s=2.0, patience_s=6, meanwhile=lose)
    assert ran.interrupted
    assert ran.patience.gave_up is not None
    assert ran.patience.gave_up.startswith("Nothing could start for 6 s, as long as cluster.patience_s allows.")
    assert [row[columns.STATE] for row in ran.rows.values()] == [columns.COMPLETED, columns.INTERRUPTED]
    nodes.add(cpus=1)
    ran = search_on(tmp_path, monkeypatch, well, Share(1, 0, 1), trials=3)
    ran.assert_every_trial_once(3)
    assert {row[columns.STATE] for row in ran.rows.values()} == {columns.COMPLETED}
    assert [line["epoch"] for line in events(ran.run.trials)["t0001"]] in ([1, 2], [1, 1, 2], [1, 2, 2])
