"""The results folder is full, stalls, or vanishes from a node while a search runs: nothing is lost, and it says so."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_search import SETTINGS, Marks, Place, Reader, assert_sound, assert_trained_once, rows
from ray_nodes import RayNodes, wait_until

from search import columns
from search.run_folder import RunFolder

EPOCHS = 6
WANTED = [*SETTINGS, f"training.epochs={EPOCHS}", "scheduler.name=none", "sampler.name=random"]


def can_mount() -> bool:
    """Whether this process may make mounts, and mount namespaces."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


pytest_plugins = "nodes_fixtures"

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not can_mount(), reason="mounting needs root"),
]

EPOCH_S = "0.5"


@contextmanager
def mounted(place: Path, *arguments: str) -> Iterator[Path]:
    """What ``mount`` makes of the arguments, at ``place``."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def kept(marks: Marks, run: RunFolder) -> int:
    return len(marks.of(run.name, "kept"))


def fill(folder: Path) -> Path:
    """A file that leaves no room on the disk of ``folder``."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            return filler
    raise AssertionError("the disk has no end")


def test_what_a_full_disk_holds_up_or_ends_goes_on_when_there_is_room(
    nodes: RayNodes, marks: Marks, tmp_path: Path
) -> None:
    """Whoever writes next finds the disk full: a trial waits for room, the search itself ends."""
    place = Place.made(tmp_path / "work", nodes.environment)
    run = place.run("full")
    nodes.add(cpus=2).joined()
    with mounted(place.folder / "runs", "-t", "tmpfs", "-o", "size=48m", "tmpfs") as runs:
        with Reader(run), place.started(*WANTED, *nodes.settings, "num_trials=6", "run=full") as driver:
            driver.wait_for(lambda: len(run.read_trials()) >= 2 and kept(marks, run) >= 14, "some trials")
            filler = fill(runs)
            wait_until(lambda: "waits:" in driver.output() or driver.process.poll() is not None, "it says so")
            time.sleep(2)  # Where a trial waits, another may have something for the search to record.
            before = {row[columns.TRIAL_ID]: row for row in rows(run, "trials")}
            filler.unlink()
            code = driver.end()
            said = " ".join(driver.output().split())
            assert re.search(r"cannot be written: .*(No space left on device|disk is full)", said), said
        if code:
            assert code == 2
            assert "python -m search.run resume=full" in said
            with Reader(run), place.started("resume=full", *nodes.settings) as driver:
                assert driver.end() == 0, driver.output()
        trials = assert_sound(run, 6)
        assert {name: row for name, row in before.items() if row[columns.STATE] != columns.INTERRUPTED}.items() <= (
            trials.items()
        )
        assert_trained_once(marks, run, lost=6)  # Of two trials each twice in vain, and once with the search.


def test_a_node_that_loses_sight_of_the_folder_waits_while_others_go_on(
    nodes: RayNodes, marks: Marks, tmp_path: Path
) -> None:
    place, shared = Place.made(tmp_path / "work", nodes.environment), tmp_path / "shared"
    run = place.run("vanished")
    shared.mkdir()
    with mounted(place.folder / "runs", "--bind", str(shared)) as runs:
        healthy, blind = nodes.add(), nodes.add(within=["unshare", "--mount", "--propagation", "private"])
        for node in (healthy, blind):
            node.joined()
        there = ["nsenter", "--mount", f"--target={blind.pid}"]
        with Reader(run), place.started(*WANTED, *nodes.settings, "num_trials=5", "run=vanished") as driver:
            driver.wait_for(lambda: len(marks.begun_on(blind, run.name)) >= 2, "two epochs on the node")
            subprocess.run([*there, "umount", "--lazy", str(runs)], check=True)
            driver.wait_until_said("waits:")
            ended = len(run.read_trials())
            driver.wait_for(lambda: len(run.read_trials()) >= ended + 2, "the other node goes on")
            subprocess.run([*there, "mount", "--bind", str(shared), str(runs)], check=True)
            assert driver.end() == 0, driver.output()
        assert_sound(run, 5)
        assert_trained_once(marks, run, lost=1)
    assert not any(runs.iterdir()), "nothing was written beside the shared folder"


def test_a_folder_that_stalls_delays_a_search_and_no_more(nodes: RayNodes, marks: Marks, tmp_path: Path) -> None:
    place, image = Place.made(tmp_path / "work", nodes.environment), tmp_path / "image"
    run = place.run("stalled")
    with image.open("wb") as stream:
        stream.truncate(64_000_000)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    nodes.add(cpus=2).joined()
    with mounted(place.folder / "runs", "-o", "loop", str(image)) as runs:
        with Reader(run), place.started(*WANTED, *nodes.settings, "num_trials=4", "run=stalled") as driver:
            driver.wait_for(lambda: kept(marks, run) >= 3, "some epochs")
            subprocess.run(["fsfreeze", "--freeze", str(runs)], check=True)
            try:
                before = kept(marks, run)
                time.sleep(15)
                assert kept(marks, run) == before, "nothing can be written"
            finally:
                subprocess.run(["fsfreeze", "--unfreeze", str(runs)], check=True)
            assert driver.end() == 0, driver.output()
        assert_sound(run, 4)
        assert_trained_once(marks, run, lost=0)
