"""A search whose driver is killed twenty times ends with the tables of one that nobody disturbed."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fault_search import SETTINGS, Marks, Place, Reader, assert_sound, assert_trained_once, rows, without_times
from ray_nodes import RayNodes, ray_nodes, title, wait_until

from search import columns
from search.run_folder import FINISHED, RunFolder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

TRIALS, EPOCHS = 20, 6
WANTED = [*SETTINGS, f"num_trials={TRIALS}", f"training.epochs={EPOCHS}", "resources.max_concurrent_trials=1"]
SITTING = "FAULTS_SITTING"
"""Environment variable that every process of a driver's own cluster has."""
Moment = Callable[[], bool]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("driver")


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH_S", "0")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        with ray_nodes(folder / "marks", workers=1) as nodes:
            yield nodes


@pytest.fixture(scope="module")
def place(folder: Path, nodes: RayNodes) -> Place:
    return Place.made(folder / "work", nodes.environment | {SITTING: str(folder)})


@pytest.fixture(scope="module")
def undisturbed(folder: Path, nodes: RayNodes, place: Place) -> RunFolder:
    """A whole search; the next one finds the architectures measured, with the same figures."""
    run, profiles = place.run("undisturbed"), folder / "cache" / "segmentation-search" / "profiles"
    with place.started(*WANTED, *nodes.settings, "run=undisturbed") as driver:
        wait_until(lambda: any(run.trials.glob("*/config.yaml")), "a trial")
        found = {file: json.loads(file.read_text()) for file in profiles.glob("*.json")}
        assert driver.end() == 0, driver.output()
    shutil.rmtree(profiles)  # The end of a search forgets figures that it doubts.
    profiles.mkdir()
    for file, content in found.items():
        file.write_text(json.dumps(content | {columns.OTHERS_BUSY: 0.0}))
    return run


class Kills:
    """The moments, in their order, at which the driver of a run dies."""

    def __init__(self, run: RunFolder, marks: Marks, seed: int) -> None:
        self._run, self._marks = run, marks
        self._random = random.Random(seed)
        whenever = [self.starting] * 2 + [self.training] * 9 + [self.recording] * 4
        self._random.shuffle(whenever)
        self.moments = [self.starting, self.founding, self.measuring, *whenever, self.ending, self.reporting]

    def starting(self) -> Moment:
        """At any time of the first seconds."""
        at = time.monotonic() + self._random.uniform(0.5, 8)
        return lambda: time.monotonic() > at

    def founding(self) -> Moment:
        """While the run's folder is being made."""
        return self._run.path.exists

    def measuring(self) -> Moment:
        """Around the measurement of the architectures."""
        return self._soon(self._run.config.exists, 3)

    def training(self) -> Moment:
        """After some more epochs, anywhere in the next one."""
        enough = len(self._kept()) + self._random.randint(1, 12)
        return self._soon(lambda: len(self._kept()) >= enough or self._is_through(), 0.15)

    def recording(self) -> Moment:
        """As soon as one more trial is on disk: the sampler is being told."""
        before = len(ended(self._run))
        return lambda: len(ended(self._run)) > before or self._is_through()

    def ending(self) -> Moment:
        """After the last trial."""
        return self._soon(self._is_through, 4)

    def reporting(self) -> Moment:
        """When nothing is left but the report."""
        before = self._run.status.stat().st_mtime_ns
        return self._soon(lambda: self._run.status.stat().st_mtime_ns > before, 2)

    def _soon(self, ready: Moment, longest_s: float) -> Moment:
        delay_s = self._random.uniform(0, longest_s)
        seen: list[float] = []

        def moment() -> bool:
            if not seen and ready():
                seen.append(time.monotonic())
            return bool(seen) and time.monotonic() > seen[0] + delay_s

        return moment

    def _kept(self) -> list[tuple[str, int, int]]:
        return self._marks.of(self._run.name, "kept")

    def _is_through(self) -> bool:
        return self._run.config.exists() and len(ended(self._run)) == TRIALS


def ended(run: RunFolder) -> set[str]:
    """The trials whose end is recorded."""
    return {row[columns.TRIAL_ID] for row in run.read_trials().to_pylist()}


def own_processes(place: Place) -> list[str]:
    """What drivers and their own clusters left behind."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(SITTING) == str(place.folder.parent):
                found.append(title(process))
        except psutil.Error:
            continue
    return found


def test_twenty_kills_change_nothing(folder: Path, nodes: RayNodes, place: Place, undisturbed: RunFolder) -> None:
    run, marks = place.run("killed"), Marks(folder / "marks")
    kills = Kills(run, marks, seed=7)
    assert len(kills.moments) == 20
    here = random.Random(7).sample(range(4, 18), 3)
    with Reader(run):
        for number, moment in enumerate(kills.moments):
            where = ["cluster=local"] if number in here else nodes.settings
            asked = ["resume=killed", *where] if run.config.exists() else [*WANTED, *where, "run=killed"]
            known = ended(run)
            with place.started(*asked) as driver:
                ready = moment()
                wait_until(lambda: ready() or driver.process.poll() is not None, moment.__name__)  # noqa: B023
                assert driver.process.poll() is None, (moment.__name__, driver.output())
            assert known <= ended(run)
            wait_until(lambda: not own_processes(place), "all processes are gone", 60)
        with place.started("resume=killed", *nodes.settings) as driver:
            assert driver.end() == 0, driver.output()
    assert run.read_status() == FINISHED
    trials = assert_sound(run, TRIALS)
    assert {row[columns.STATE] for row in trials.values()} == {columns.COMPLETED, columns.STOPPED}
    assert_trained_once(marks, run, lost=20)
    for table in ("trials", "epochs"):
        assert without_times(rows(run, table)) == without_times(rows(undisturbed, table))
    wait_until(lambda: not nodes.workers[0].actors(), "the trials' processes are gone", 60)
