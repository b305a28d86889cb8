"""Trials' processes and whole nodes die and join while a search runs: it goes on, and trains nothing twice."""

from __future__ import annotations

import time

import psutil
import pytest
from fault_search import SETTINGS, Marks, Place, Reader, assert_sound, assert_trained_once
from ray_nodes import RayNodes

from search import columns

pytest_plugins = "nodes_fixtures"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

EPOCH_S = "0.5"

EPOCHS = 6
WANTED = [*SETTINGS, f"training.epochs={EPOCHS}", "scheduler.name=none", "sampler.name=random"]


def test_a_trial_goes_on_when_its_process_dies_and_fails_when_it_always_does(
    nodes: RayNodes, place: Place, marks: Marks
) -> None:
    run = place.run("processes")
    for node in [nodes.add(), nodes.add()]:
        node.joined()
    killed: set[tuple[str, int]] = set()
    with Reader(run), place.started(*WANTED, *nodes.settings, "num_trials=4", "run=processes") as driver:
        while driver.process.poll() is None:
            for trial, epoch, pid in marks.of("processes", "begun"):
                first_dies = trial == "t0000" and epoch == 3 and not any(name == "t0000" for name, _ in killed)
                if (trial == "t0001" or first_dies) and (trial, pid) not in killed:
                    killed.add((trial, pid))
                    psutil.Process(pid).kill()
            time.sleep(0.02)
        assert driver.end() == 0, driver.output()
    trials = assert_sound(run, 4, failed=1)
    assert trials["t0000"][columns.STATE] == columns.COMPLETED
    assert trials["t0001"][columns.STATE] == columns.FAILED
    assert "process" in trials["t0001"][columns.REASON]
    assert len(killed) == 4
    assert_trained_once(marks, run, lost=4)


def test_trials_move_when_their_nodes_die_and_a_node_that_joins_later_is_used(
    nodes: RayNodes, place: Place, marks: Marks
) -> None:
    run = place.run("moving")
    small, large = nodes.add().joined(), nodes.add(cpus=2).joined()
    with Reader(run), place.started(*WANTED, *nodes.settings, "num_trials=12", "run=moving") as driver:
        driver.wait_for(run.config.exists, "the search begins")
        late = nodes.add()  # It takes a while to join.
        driver.wait_for(lambda: any(epoch >= 2 for _, epoch, _ in marks.begun_on(small, run.name)), "a trial on each")
        small.kill()
        driver.wait_for(lambda: bool(marks.begun_on(late, run.name)), "a trial on the node that joined")
        driver.wait_for(
            lambda: len({trial for trial, *_ in marks.begun_on(large, run.name)}) >= 2, "two on the large one"
        )
        large.kill()
        assert driver.end() == 0, driver.output()
    assert_sound(run, 12)
    assert_trained_once(marks, run, lost=3)


def test_without_nodes_a_search_says_what_is_missing_and_goes_on_when_one_comes(
    nodes: RayNodes, place: Place, marks: Marks
) -> None:
    run = place.run("alone")
    first = nodes.add().joined()
    with Reader(run), place.started(*WANTED, *nodes.settings, "num_trials=3", "run=alone") as driver:
        driver.wait_for(lambda: any(epoch >= 2 for _, epoch, _ in marks.begun_on(first, run.name)), "an epoch")
        first.kill()
        driver.wait_until_said("What is next needs 1 CPU core")
        drawn = sorted(path.name for path in run.trials.iterdir())
        assert len(drawn) <= 2, "no more is drawn than waits"
        nodes.add().joined()
        driver.wait_until_said("the search goes on")
        assert driver.end() == 0, driver.output()
    assert_sound(run, 3)
    assert_trained_once(marks, run, lost=1)


def test_a_search_whose_patience_ends_says_how_to_go_on_and_does(nodes: RayNodes, place: Place, marks: Marks) -> None:
    run = place.run("patient")
    first = nodes.add().joined()
    settings = [*WANTED, *nodes.settings, "num_trials=3", "run=patient", "cluster.patience_s=15"]
    with Reader(run):
        with place.started(*settings) as driver:
            driver.wait_for(lambda: any(epoch >= 2 for _, epoch, _ in marks.begun_on(first, run.name)), "an epoch")
            first.kill()
            assert driver.end() == 75
            assert "python -m search.run resume=patient" in driver.output()
            assert "needs 1 CPU core" in " ".join(driver.output().split())
        assert columns.INTERRUPTED in [row[columns.STATE] for row in run.read_trials().to_pylist()]
        nodes.add().joined()
        with place.started("resume=patient") as driver:
            assert driver.end() == 0, driver.output()
    assert_sound(run, 3)
    assert_trained_once(marks, run, lost=1)
