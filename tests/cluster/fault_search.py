"""A small search to be disturbed: its command, what is read of it meanwhile, and what must hold afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from ray_nodes import RayNode, wait_until

from search import columns
from search.run_folder import RunFolder

SPACE = """\
question: Does a wider UNet beat a narrower one?
parameters:
  model.base_channels: {values: [2, 4]}
  optimizer.lr: {distribution: log_uniform_values, min: 1.0e-6, max: 3.0e-2}
baselines:
  - {model.base_channels: 2, optimizer.lr: 1.0e-2}
  - {model.base_channels: 4, optimizer.lr: 1.0e-2}
  - {model.base_channels: 2, optimizer.lr: 2.0e-2}
fixed: {model.architecture: unet, model.size: small, training.batch_size: 4, training.precision: fp32,
        optimizer.name: adamw}
"""
SETTINGS = ["space=faults", "data.height=32", "data.width=32", "data.max_images=24"]
TIMES = {columns.EPOCH_TIME_S, columns.TRAIN_TIME_S, columns.IMAGES_PER_S, columns.REPORTED_AT, columns.DEVICE}
TIMES |= {columns.STARTED_AT, columns.ENDED_AT}
"""Columns that no two searches have in common."""


@dataclass(frozen=True)
class Marks:
    """What ``epoch_marks`` noted."""

    file: Path

    def of(self, run: str, what: str) -> list[tuple[str, int, int]]:
        """(trial, epoch, process) of the epochs of ``run`` that were ``begun`` or ``kept``, in order."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        found = [line.split() for line in lines]
        return [
            (name.partition("/")[2], int(epoch), int(pid))
            for name, epoch, kind, pid in found
            if kind == what and name.partition("/")[0] == run
        ]

    def begun_on(self, node: RayNode, run: str) -> list[tuple[str, int, int]]:
        """Those begun by the processes that the node has now."""
        here = {process.pid for process in node.actors()}
        return [mark for mark in self.of(run, "begun") if mark[2] in here]

    def times(self, run: str, what: str) -> Counter[tuple[str, int]]:
        """How often each (trial, epoch) was ``begun`` or ``kept``."""
        return Counter((trial, epoch) for trial, epoch, _ in self.of(run, what))


class Reader(threading.Thread):
    """A stranger who opens every Parquet file of a run with plain pyarrow, as soon as it appears or changes."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(daemon=True)
        self._run, self._enough = run, threading.Event()
        self.opened, self.broken = dict[Path, tuple[int, int, int]](), list[str]()

    def run(self) -> None:
        """See Thread."""
        while not self._enough.wait(0.02):
            for file in self._run.results.glob("*/*.parquet"):
                try:
                    found = file.stat()
                    now = found.st_ino, found.st_mtime_ns, found.st_size
                    if self.opened.get(file) != now:
                        pq.read_table(file, partitioning=None)
                        self.opened[file] = now
                except FileNotFoundError:
                    continue  # Merged into another.
                except Exception as error:
                    self.broken.append(f"{file}: {error!r}")

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._enough.set()
        self.join()
        assert not self.broken
        assert self.opened or kind is not None


@dataclass(frozen=True)
class Place:
    """Where searches are started, and the environment they have."""

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def made(cls, folder: Path, environment: Mapping[str, str]) -> Place:
        """A new place with the space ``faults``."""
        (folder / "conf" / "space").mkdir(parents=True)
        (folder / "conf" / "space" / "faults.yaml").write_text(SPACE)
        return cls(folder, environment)

    def run(self, name: str) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.folder / "runs" / name)

    @contextmanager
    def started(self, *settings: str) -> Iterator[Driver]:
        """A search under way; killed at the end if it is not through."""
        driver = Driver(self, settings)
        try:
            yield driver
        finally:
            driver.process.kill()
            driver.process.wait()


class Driver:
    """The process of a search."""

    def __init__(self, place: Place, settings: tuple[str, ...]) -> None:
        self._file = place.folder / "output.txt"
        with self._file.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "search.run", "--config-dir", "conf", "tracking.mode=off", *settings],
                cwd=place.folder,
                env=dict(place.environment),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        """What it printed so far."""
        return self._file.read_text()

    def wait_for(self, ready: Callable[[], bool], what: str) -> None:
        """Return once ``ready`` says so, which it must while the search runs."""
        wait_until(lambda: ready() or self.process.poll() is not None, what)
        assert ready(), self.output()

    def wait_until_said(self, words: str) -> None:
        """Return once the words were printed; line breaks of the terminal do not count."""
        self.wait_for(lambda: words in " ".join(self.output().split()), words)

    def end(self, wait_s: float = 600.0) -> int:
        """Wait for its end; returns the exit code."""
        try:
            code = self.process.wait(wait_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"still running after {wait_s:g} s:\n{self.output()}") from error
        assert "Traceback" not in self.output(), self.output()
        return code


def rows(run: RunFolder, table: str) -> list[dict[str, Any]]:
    """Read as a stranger does: pyarrow on the folder, none of our code."""
    found: list[dict[str, Any]] = ds.dataset(run.results / table, format="parquet").to_table().to_pylist()
    return found


def without_times(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must be the same in two searches of the same seed, in the order of trials and epochs."""
    kept = [{name: value for name, value in row.items() if name not in TIMES} for row in found]
    return sorted(kept, key=lambda row: (row[columns.TRIAL_ID], row[columns.EPOCH]))


def assert_sound(run: RunFolder, num_trials: int, *, failed: int = 0) -> dict[str, dict[str, Any]]:
    """Every trial once and none left open, no (trial, epoch) twice, no gap, and Optuna agrees; returns the trials."""
    trials = rows(run, "trials")
    by_id = {row[columns.TRIAL_ID]: row for row in trials}
    assert len(trials) == len(by_id) == num_trials
    states = Counter(row[columns.STATE] for row in trials)
    assert states[columns.COMPLETED] + states[columns.STOPPED] == num_trials - failed
    assert states[columns.FAILED] == failed
    reported: dict[str, list[int]] = {}
    for row in rows(run, "epochs"):
        reported.setdefault(row[columns.TRIAL_ID], []).append(row[columns.EPOCH])
    for row in trials:
        assert sorted(reported.get(row[columns.TRIAL_ID], [])) == list(range(1, row[columns.EPOCH] + 1))
        assert row[columns.STATE] != columns.COMPLETED or row[columns.EPOCH] == row[columns.EPOCHS]
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{run.storage}")
    assert Counter(trial.state.name for trial in study.trials) == Counter(
        {"COMPLETE": num_trials - failed} | ({"FAIL": failed} if failed else {})
    )
    return by_id


def assert_trained_once(marks: Marks, run: RunFolder, *, lost: int) -> None:
    """No epoch whose checkpoint was kept was trained again, and of others at most ``lost`` were begun in vain."""
    kept, begun = marks.times(run.name, "kept"), marks.times(run.name, "begun")
    assert {key: times for key, times in kept.items() if times > 1} == {}
    assert sum((begun - kept).values()) <= lost
    recorded = {(row[columns.TRIAL_ID], row[columns.EPOCH]) for row in rows(run, "epochs")}
    assert kept.keys() <= recorded <= begun.keys(), "a process may die between a checkpoint and its mark"
