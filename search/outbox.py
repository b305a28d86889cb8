"""What of a run is to be copied to its storage next: a state of the run, set aside between two events of the search.

Such a state is one that a kill could have left, so a search can go on from it. Its files are copied in this order:

1. settings and profiles of new trials, and other small files;
2. new Parquet files, in the order they were written;
3. the Optuna study. So every trial it was told of has its row in the tables. Rows of trials that it does not know yet,
   since the machine was lost before this step, are dropped by who goes on: those trials are drawn anew;
4. the settings of the run, with which it can be continued, and its status;
5. removals: Parquet files that others replace, the oldest first, so that none of them counts again; and checkpoints
   of trials whose end is in the tables.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from operator import methodcaller
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from search import columns
from search.ledger import TrialRecord
from search.repeats import split_id
from search.results import Table, read_table, stamps
from search.run_folder import RunFolder
from search.sampler import drawn_configurations
from search.storage import Storage
from search.stored_run import CHECKPOINTS, MIRRORED
from search.warm_start import WarmStart

BEST, LAST = CHECKPOINTS
UNNEEDED = {columns.COMPLETED: (LAST,), columns.STOPPED: CHECKPOINTS, columns.FAILED: CHECKPOINTS}
"""Checkpoints that nobody needs once a trial's end is recorded, by its state."""
_OF_TRIALS = ("config.yaml", "profile.json", "error.txt")

Step = tuple[str, bytes | Path | None]
"""A file's name in the storage, and its content, or none where it is to be removed."""


class Outbox:
    """Sets states of a run aside; an :class:`~search.ledger.Observer`, to know which trials began and ended."""

    def __init__(self, run: RunFolder, storage: Storage) -> None:
        """Find what the storage of the run has already, and bring it in line with what the search goes on from.

        Raises:
            StorageError: the storage cannot be used.
        """
        self._run = run
        self._folder = run.path / ".outbox"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._small: dict[str, bytes] = {}
        self._study = _Study(run.storage)
        drawn = drawn_configurations(run.storage, len(WarmStart.load(run.warm_start).trials))
        _forget_undrawn(run, drawn)
        there = set(storage.files())
        self._mirrored = {name for name in there if PurePosixPath(name).parts[0] in MIRRORED}
        self._new = [path for path in _files_of_trials(run, _OF_TRIALS) if _name(run, path) not in there]
        self._removals: list[str] = []
        # Before the search goes on: a trial may need these, or write others under the same names.
        for name in sorted(_undrawn(there, drawn)):
            storage.remove(name)
        for path in _files_of_trials(run, CHECKPOINTS):
            if _name(run, path) not in there:
                storage.put(_name(run, path), path)
        for row in run.read_trials().to_pylist():
            self._forget(row, there)

    def trial_started(self, trial: TrialRecord) -> None:
        """See Observer."""
        self._new += [self._run.trials / trial.trial_id / "config.yaml", self._run.profile(trial.trial_id)]

    def epoch_reported(self, trial: TrialRecord, row: Mapping[str, Any]) -> None:
        """See Observer."""

    def trial_ended(self, row: Mapping[str, Any]) -> None:
        """See Observer."""
        self._forget(row)
        if row[columns.STATE] == columns.FAILED:
            self._new.append(self._run.trials / row[columns.TRIAL_ID] / "error.txt")

    def set_aside(self, *, whole: bool = False) -> list[Step]:
        """All that changed since the last call, in the order to be copied; with the report and what belongs to it if
        ``whole``."""
        run = self._run
        self._folder.mkdir(exist_ok=True)
        steps: list[Step] = [(_name(run, path), path.read_bytes()) for path in self._new if path.exists()]
        steps += self._changed([run.data, run.warm_start, run.wandb / "place.json"])
        tables = {_name(run, path): path for path in run.results.glob("*/*.parquet")}
        written = sorted((name for name in tables if name not in self._mirrored), key=_written)
        steps += [(name, self._link(tables[name])) for name in written]
        if self._study.changed():
            steps.append((run.storage.name, self._study.copy(self._folder / run.storage.name)))
        others = _files_below(run.path / name for name in MIRRORED if name != run.results.name) if whole else []
        steps += [(_name(run, path), path) for path in others]
        steps += self._changed([run.config, run.status])
        kept = set(tables) | {_name(run, path) for path in others}
        gone = {name for name in self._mirrored if whole or PurePosixPath(name).parts[0] == run.results.name} - kept
        steps += [(name, None) for name in [*sorted(gone, key=_written), *self._removals]]
        self._mirrored = (self._mirrored - gone) | kept
        self._new, self._removals = [], []
        return steps

    def done(self, step: Step) -> None:
        """The storage has it: what was set aside for it is let go."""
        content = step[1]
        if isinstance(content, Path) and content.parent == self._folder:
            content.unlink()

    def _forget(self, row: Mapping[str, Any], among: Iterable[str] | None = None) -> None:
        unneeded = [f"trials/{row[columns.TRIAL_ID]}/{name}" for name in UNNEEDED.get(row[columns.STATE], ())]
        self._removals += [name for name in unneeded if among is None or name in among]

    def _changed(self, files: Iterable[Path]) -> list[Step]:
        found = {_name(self._run, path): path.read_bytes() for path in files if path.exists()}
        changed = {name: content for name, content in found.items() if self._small.get(name) != content}
        self._small |= changed
        return list(changed.items())

    def _link(self, path: Path) -> Path:
        """The file under a second name, which stays when the table merges it into another."""
        place = self._folder / f"{path.parent.name}-{path.name}"
        place.unlink(missing_ok=True)
        try:
            os.link(path, place)
        except OSError:  # a filesystem without links
            shutil.copyfile(path, place)
        return place


class _Study:
    """Optuna's database, copied when it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None

    def changed(self) -> bool:
        """Whether it did since the last call."""
        if self._connection is None:
            if not self._path.exists():
                return False
            self._connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
        before = self._version
        # Of a connection that stays open this number tells whether another one has written.
        (self._version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return before != self._version

    def copy(self, place: Path) -> Path:
        """Write a whole database there, as of now."""
        assert self._connection is not None
        place.unlink(missing_ok=True)
        with closing(sqlite3.connect(place)) as target:
            target.execute("PRAGMA synchronous=OFF")  # The copy that must outlive this machine is the storage's.
            self._connection.backup(target)
        return place


def _forget_undrawn(run: RunFolder, drawn: set[str]) -> None:
    """Drop rows of trials that the study does not know: they came to the storage, and the study behind them did not."""
    for name in ("trials", "epochs"):
        rows = read_table(run.results / name)
        if not rows.num_rows:
            continue
        ids = rows[columns.TRIAL_ID].unique().to_pylist()
        known = [trial_id for trial_id in ids if split_id(trial_id)[0] in drawn]
        if len(known) < len(ids):
            keep = pc.field(columns.TRIAL_ID).isin(pa.array(known, pa.string()))
            Table(run.results / name, rows.schema).compact(keep=methodcaller("filter", keep))


def _undrawn(names: Iterable[str], drawn: set[str]) -> set[str]:
    """Files of trials that the study does not know."""
    parts = {name: PurePosixPath(name).parts for name in names}
    return {name for name, (top, *rest) in parts.items() if top == "trials" and split_id(rest[0])[0] not in drawn}


def _files_of_trials(run: RunFolder, names: Iterable[str]) -> list[Path]:
    return [path for name in names for path in run.trials.glob(f"*/{name}")]


def _files_below(folders: Iterable[Path]) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def _name(run: RunFolder, path: Path) -> str:
    return path.relative_to(run.path).as_posix()


def _written(name: str) -> tuple[int, str]:
    """Sorts Parquet files by the time they were written, and what merges others behind them; other files come last."""
    is_table = name.startswith("results/")
    return (stamps(PurePosixPath(name).name)[1] if is_table else sys.maxsize, name)
