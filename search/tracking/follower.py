"""What is new in a run's record since it was last looked at, read from its files while the search writes them."""

from __future__ import annotations

import datetime
import itertools
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from search import columns
from search.results import is_merged, stamps
from search.run_folder import RunFolder


@dataclass
class TrialNews:
    """What was not known of one trial."""

    trial_id: str
    epochs: list[Mapping[str, Any]] = field(default_factory=list)
    """Rows of ``epochs``, in order."""
    end: Mapping[str, Any] | None = None
    """The row of ``trials``."""

    def extend(self, later: TrialNews) -> None:
        """Add what became known later."""
        self.epochs += later.epochs
        self.end = later.end or self.end


class Follower:
    """Tells each row once, and each trial as soon as it has started, however the search merges its files."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._read: defaultdict[str, set[str]] = defaultdict(set)
        """Table to those of its files that hold nothing new."""
        self._until: defaultdict[str, int] = defaultdict(lambda: -2)
        """Table to the stamp of the newest of them; before there is one, less than that of any file before another."""
        self._started: set[str] = set()
        self._last_epoch: dict[str, int] = {}
        self._ended_at: dict[str, datetime.datetime] = {}

    def poll(self) -> list[TrialNews]:
        """The news of each trial that has some, in the order they started."""
        try:
            # Ends are read first: whatever a trial reported before its end is among the epochs by then.
            ends, epochs = self._unread("trials"), self._unread("epochs")
        except FileNotFoundError:
            return []  # Merged meanwhile into a file that the next look will find.
        news = {trial_id: TrialNews(trial_id) for trial_id in self._new_trials()}
        for row in self._rows("epochs", epochs):
            trial_id, epoch = row[columns.TRIAL_ID], row[columns.EPOCH]
            if epoch > self._last_epoch.get(trial_id, 0):
                self._last_epoch[trial_id] = epoch
                news.setdefault(trial_id, TrialNews(trial_id)).epochs.append(row)
        for row in self._rows("trials", ends):
            if self._is_new_end(row):
                news.setdefault(row[columns.TRIAL_ID], TrialNews(row[columns.TRIAL_ID])).end = row
        return list(news.values())

    def _new_trials(self) -> list[str]:
        """Trials whose settings are written: the search does that just before it starts them."""
        folders = _names(self._run.trials) - self._started
        found = {trial_id for trial_id in folders if (self._run.trials / trial_id / "config.yaml").exists()}
        self._started |= found
        return sorted(found, key=lambda trial_id: (len(trial_id), trial_id))

    def _is_new_end(self, row: Mapping[str, Any]) -> bool:
        """Merging shows a row again; a trial that was interrupted and resumed ends once more."""
        trial_id, ended_at = row[columns.TRIAL_ID], row[columns.ENDED_AT]
        known = self._ended_at.get(trial_id) == ended_at
        self._ended_at[trial_id] = ended_at
        return not known

    def _unread(self, table: str) -> dict[str, pa.Table]:
        folder = self._run.results / table
        there = {name for name in _names(folder) if name.endswith(".parquet") and not name.startswith(".")}
        self._read[table] &= there
        news = sorted(there - self._read[table])
        # A merged file replaces all up to the stamp before its own: where they were read, it holds nothing new.
        known = [name for name in news if is_merged(name) and stamps(name)[1] <= self._until[table] + 1]
        self._take(table, known)
        return {name: pq.read_table(folder / name, partitioning=None) for name in news if name not in known}

    def _rows(self, table: str, news: Mapping[str, pa.Table]) -> Iterator[dict[str, Any]]:
        self._take(table, news)
        return itertools.chain.from_iterable(rows.to_pylist() for rows in news.values())

    def _take(self, table: str, names: Collection[str]) -> None:
        self._read[table].update(names)
        self._until[table] = max([self._until[table], *(stamps(name)[1] for name in names)])


def _names(folder: Path) -> set[str]:
    # A search of days has tens of thousands of trials: names alone are quick to compare.
    return set(os.listdir(folder)) if folder.exists() else set()  # noqa: PTH208
