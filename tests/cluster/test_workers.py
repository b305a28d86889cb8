"""Trials of several workers in a real search: reserved as a whole, on one node or two, and gone when they end."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

import psutil
import pytest
from fault_search import SETTINGS, Marks, Place, assert_sound, assert_trained_once, rows
from ray_nodes import RayNodes, title, wait_until

from search import columns
from trainers.distributed import TIMEOUT_S

pytest_plugins = "nodes_fixtures"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

EPOCH_S = "0.3"

TWO = [*SETTINGS, "resources.workers_per_trial=2", "resources.cpus_per_trial=1"]
BURST = """\
parameters:
  optimizer.lr: {values: [1.0e+30, 1.0e-2]}
fixed: {model.architecture: unet, model.size: small, model.base_channels: 2, training.batch_size: 4,
        training.precision: fp32, optimizer.name: sgd}
"""


class Seen(threading.Thread):
    """Watches which processes of the nodes train which trial; Ray gives them its name meanwhile."""

    def __init__(self, nodes: RayNodes, run: str) -> None:
        super().__init__(daemon=True)
        self._nodes, self._prefix = nodes, f"ray::{run}/"
        self._enough = threading.Event()
        self.at_once: defaultdict[str, int] = defaultdict(int)
        """Most processes that a trial had at a time."""
        self.trials_at_once = 0
        self.pids: set[int] = set()
        self.places: defaultdict[str, set[int]] = defaultdict(set)
        """Nodes that each trial was on, by the process of their raylet."""

    def now(self) -> dict[str, list[psutil.Process]]:
        """The processes that train each trial at this moment."""
        found: dict[str, list[psutil.Process]] = {}
        for node in list(self._nodes.workers):
            for process in node.actors():
                name = title(process).strip()
                if name.startswith(self._prefix):
                    trial = name.removeprefix(self._prefix)
                    found.setdefault(trial, []).append(process)
                    self.places[trial].add(node.pid)
        return found

    def run(self) -> None:
        """See Thread."""
        while not self._enough.wait(0.2):
            now = self.now()
            self.trials_at_once = max(self.trials_at_once, len(now))
            for trial, processes in now.items():
                self.at_once[trial] = max(self.at_once[trial], len(processes))
                self.pids |= {process.pid for process in processes}

    def __enter__(self) -> Seen:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join()


def no_actor_left(nodes: RayNodes) -> bool:
    """Whether the processes that Ray has left on the nodes are its own."""
    return not any(node.actors() for node in nodes.workers)


def test_more_trials_than_fit_run_two_by_two_with_two_workers_each(nodes: RayNodes, place: Place, marks: Marks) -> None:
    nodes.add(cpus=5).joined()  # two trials and a core that is half of a third
    run = place.run("many")
    halving = ["scheduler.name=asha", "scheduler.eta=2", "training.epochs=4"]
    with (
        Seen(nodes, "many") as seen,
        place.started(*TWO, *halving, *nodes.settings, "num_trials=8", "run=many") as driver,
    ):
        assert driver.end() == 0, driver.output()
    trials = assert_sound(run, 8)
    assert_trained_once(marks, run, lost=0)
    assert columns.STOPPED in {row[columns.STATE] for row in trials.values()}, "which frees its workers"
    assert set(seen.at_once) == set(trials)
    assert set(seen.at_once.values()) == {2}
    assert seen.trials_at_once == 2
    assert len(seen.pids) == 4, "processes are used again for the next trial"
    wait_until(lambda: no_actor_left(nodes), "the processes end with the search", 30)


def test_a_trial_that_loses_a_worker_goes_on_from_its_checkpoint(nodes: RayNodes, place: Place, marks: Marks) -> None:
    nodes.add(cpus=2).joined()
    run = place.run("bereft")
    wanted = [*TWO, "scheduler.name=none", "training.epochs=5", "num_trials=3", "run=bereft"]
    with Seen(nodes, "bereft") as seen, place.started(*wanted, *nodes.settings) as driver:
        driver.wait_for(lambda: ("t0000", 3) in marks.times("bereft", "begun"), "the third epoch")
        first = marks.of("bereft", "begun")[-1][2]
        others = [process for process in seen.now()["t0000"] if process.pid != first]
        others[0].kill()
        killed = time.monotonic()
        driver.wait_for(lambda: marks.times("bereft", "begun")["t0000", 3] == 2, "the third epoch again")
        assert time.monotonic() - killed < TIMEOUT_S / 2, "noticed, not timed out"
        assert driver.end() == 0, driver.output()
    trials = assert_sound(run, 3)
    assert {row[columns.STATE] for row in trials.values()} == {columns.COMPLETED}
    assert_trained_once(marks, run, lost=1)
    wait_until(lambda: no_actor_left(nodes), "the processes end with the search", 30)


def test_a_trial_spans_two_nodes_where_none_holds_it(nodes: RayNodes, place: Place, marks: Marks) -> None:
    for node in [nodes.add(), nodes.add()]:
        node.joined()
    run = place.run("spanning")
    wanted = [*TWO, "scheduler.name=none", "training.epochs=3", "num_trials=3", "run=spanning"]
    with Seen(nodes, "spanning") as seen, place.started(*wanted, *nodes.settings) as driver:
        assert driver.end() == 0, driver.output()
    trials = assert_sound(run, 3)
    assert_trained_once(marks, run, lost=0)
    assert {trial: len(places) for trial, places in seen.places.items()} == dict.fromkeys(trials, 2)
    assert seen.trials_at_once == 1


def test_what_workers_cannot_train_together_is_refused_before_any_trial(nodes: RayNodes, place: Place) -> None:
    nodes.add(cpus=3).joined()
    wanted = [*SETTINGS, "resources.workers_per_trial=3", "resources.cpus_per_trial=1", "run=refused"]
    with place.started(*wanted, *nodes.settings) as driver:
        assert driver.end() == 2
    said = " ".join(driver.output().split())
    assert "training.batch_size=4 is divided among resources.workers_per_trial=3" in said
    assert not place.run("refused").path.exists()


def test_a_failure_of_training_ends_the_trial_on_all_workers_and_the_next_one_starts(
    nodes: RayNodes, place: Place
) -> None:
    nodes.add(cpus=2).joined()
    (place.folder / "conf" / "space" / "burst.yaml").write_text(BURST)
    run = place.run("burst")
    wanted = ["space=burst", *TWO[1:], "scheduler.name=none", "training.epochs=2", "num_trials=2", "run=burst"]
    with place.started(*wanted, "sampler.name=grid", *nodes.settings) as driver:
        assert driver.end() == 0, driver.output()
    by_rate = {row["optimizer.lr"]: row for row in assert_sound(run, 2, failed=1).values()}
    assert by_rate[1e-2][columns.STATE] == columns.COMPLETED
    assert "TrainingError: The loss became" in by_rate[1e30][columns.REASON]


def test_a_failure_of_one_worker_is_that_of_the_trial_in_its_words(nodes: RayNodes, place: Place) -> None:
    nodes.add().joined()
    run = place.run("unwritable")
    with place.started(*TWO, "training.epochs=2", "num_trials=1", "run=unwritable", *nodes.settings) as driver:
        driver.wait_for((run.trials / "t0000" / "config.yaml").exists, "a trial waits for a second node")
        nodes.add(within=["env", "XDG_CACHE_HOME=/proc/nowhere"]).joined()
        driver.end()
    (row,) = rows(run, "trials")
    assert row[columns.STATE] == columns.FAILED, row
    assert "DataError: Cannot write" in row[columns.REASON]
    assert "/proc/nowhere" in row[columns.REASON]
