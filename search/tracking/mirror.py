"""One run of a search on W&B per trial, brought to where the record is and no further."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import wandb
from omegaconf import OmegaConf

from search import columns
from search.run_folder import RUNNING, RunFolder
from search.tracking.client import finish_run, init_run
from search.tracking.follower import TrialNews
from search.tracking.login import probe, require_credentials
from search.tracking.place import Place, TrackingError
from spaces import Space
from trainers.config import TrialConfig

WORKERS = 8
"""Trials that are begun or ended on W&B at the same time: each waits for answers of the server."""
_FILES_PER_RUN = 6
"""That W&B's client and its service have open for a run; some of them stay open until the service ends."""
_SPARE_FILES = 100
_KEPT = (
    *(columns.STATE, columns.REASON, columns.EPOCH, columns.BEST_EPOCH, columns.REPEAT, columns.DEVICE),
    *(columns.MIOU, columns.LATENCY_MS, columns.LATENCY_P95_MS, columns.SIZE_MB, columns.PARAMS, columns.MACS),
)
"""Columns of ``trials`` that a run's summary has."""


class SentTrials:
    """The trials that W&B has whole, remembered across kills: one line each."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = set(file.read_text().split()) if file.exists() else set()

    def __contains__(self, trial_id: str) -> bool:
        return trial_id in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, trial_id: str) -> None:
        """Remember the trial."""
        with self._file.open("a") as stream:
            stream.write(f"{trial_id}\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._known.add(trial_id)


class Mirror:
    """Brings W&B, online or in files below the run's folder, to what the record says of each trial.

    A run on W&B has one history row an epoch, so the number of rows that the server has says where to go on.
    """

    def __init__(
        self, run: RunFolder, place: Place, space: Space, online: bool, say_sent: Callable[[int], None] = lambda _: None
    ) -> None:
        """``say_sent`` is told the number of trials sent whole whenever it grows."""
        self._run, self._place, self._space, self._online = run, place, space, online
        self._say_sent = say_sent
        self.sent = SentTrials(run.wandb / f"{place.key}-{'online' if online else 'offline'}.txt")
        self._open: dict[str, wandb.Run] = {}
        self._waiting: dict[str, TrialNews] = {}
        self._failed: dict[str, str] = {}
        self._most_runs, self._begun = most_runs(), 0
        self._trouble: str | None = None

    def update(self, news: Sequence[TrialNews]) -> None:
        """Send what is new, and what waited for a place among the open runs.

        Raises:
            TrackingError: W&B cannot be used any longer.
        """
        for item in news:
            if item.trial_id not in self.sent and item.trial_id not in self._failed:
                self._waiting.setdefault(item.trial_id, TrialNews(item.trial_id)).extend(item)
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(self._send, self._due()))

    @property
    def spent(self) -> bool:
        """Whether trials wait that W&B's service has no files left for: another one is needed."""
        return self._begun >= self._most_runs and bool(self._waiting)

    def finish(self) -> None:
        """End the runs of trials that did not end: they are to be resumed.

        Raises:
            TrackingError: some trial could not be sent; the message says which.
        """
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(self._interrupt, list(self._open)))
        if self._failed:
            trial_id, reason = next(iter(self._failed.items()))
            trials = "1 trial" if len(self._failed) == 1 else f"{len(self._failed)} trials"
            raise TrackingError(f"{trials} could not be sent to W&B, the first {trial_id}: {reason}")

    def _due(self) -> list[TrialNews]:
        """What can be sent with the files that may be open: half of them are for trials that ended."""
        room = self._most_runs // 2 - len(self._open)
        due = []
        for trial_id, item in list(self._waiting.items()):
            begins = trial_id not in self._open
            stays = begins and item.end is None
            if (begins and self._begun >= self._most_runs) or (stays and room <= 0):
                continue
            self._begun += begins
            room -= stays
            due.append(self._waiting.pop(trial_id))
        return due

    def _send(self, news: TrialNews) -> None:
        if self._trouble is not None:
            return
        try:
            self._send_to(self._open.get(news.trial_id) or self._begin(news), news)
        except Exception as error:  # W&B's client raises whatever its parts raise
            self._open.pop(news.trial_id, None)
            trouble = probe(require_credentials()) if self._online else None
            if trouble is not None or isinstance(error, TrackingError):
                # What other runs sent may be lost too: who mirrors next asks the server and sends it again.
                self._trouble = trouble.text if trouble is not None else str(error)
                raise TrackingError(self._trouble) from error
            self._failed[news.trial_id] = f"{type(error).__name__}: {error}"

    def _send_to(self, run: wandb.Run, news: TrialNews) -> None:
        costs = {name: value for name, value in self._profile(news).items() if name in columns.OBJECTIVES}
        for row in news.epochs:
            if row[columns.EPOCH] > run.starting_step:
                run.log(_metrics(row) | costs)
        if news.end is not None:
            self._end(run, news.end)

    def _begin(self, news: TrialNews) -> wandb.Run:
        self._remove_files(news.trial_id)  # Of a client that was killed: all of it is in the record.
        run = init_run(
            self._run,
            self._place,
            news.trial_id,
            online=self._online,
            job_type="trial",
            config=self._config(news),
            sweep_id=self._place.sweep_id,
            stop_fn=lambda: self._request_stop(news.trial_id),
        )
        # Rows carry their epoch: W&B drops rows whose own step repeats, as after a restart.
        run.define_metric(columns.EPOCH)
        run.define_metric("*", step_metric=columns.EPOCH)
        run.tags = (RUNNING,)
        run.summary.update(self._profile(news))
        self._open[news.trial_id] = run
        return run

    def _end(self, run: wandb.Run, row: Mapping[str, Any]) -> None:
        trial_id, state = row[columns.TRIAL_ID], row[columns.STATE]
        run.summary.update({name: row[name] for name in _KEPT if row.get(name) is not None})
        run.tags = (state,)
        if state == columns.INTERRUPTED:
            run.mark_preempting()  # W&B's word for: to be resumed.
        ended_well = state in (columns.COMPLETED, columns.STOPPED, columns.INFEASIBLE)
        finish_run(run, rows=row[columns.EPOCH], exit_code=0 if ended_well else 1)
        self._open.pop(trial_id, None)
        if state != columns.INTERRUPTED:
            self.sent.add(trial_id)
            self._say_sent(len(self.sent))
            if self._online:
                self._remove_files(trial_id)

    def _interrupt(self, trial_id: str) -> None:
        # Rows that do not arrive now are sent when the trial goes on: none is insisted on.
        row = {columns.TRIAL_ID: trial_id, columns.STATE: columns.INTERRUPTED, columns.EPOCH: 0}
        self._send(TrialNews(trial_id, end=row))

    def _config(self, news: TrialNews) -> dict[str, Any]:
        """The trial's settings, without parameters of the space that its other choices left no place for."""
        file = self._run.trials / news.trial_id / "config.yaml"
        if file.exists():
            settings = TrialConfig.load(file).to_dict()
        else:
            assert news.end is not None
            if news.end[columns.CONFIG] is None:
                return _nested({path: news.end[path] for path in self._space.paths if news.end[path] is not None})
            settings = json.loads(news.end[columns.CONFIG])
        for path in set(self._space.paths) - self._space.drawn_in(settings).keys():
            _remove(settings, path)
        return settings

    def _profile(self, news: TrialNews) -> dict[str, float]:
        """What is known of the trial before it trains; nothing of one that never did."""
        file = self._run.profile(news.trial_id)
        profile: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
        return profile

    def _request_stop(self, trial_id: str) -> None:
        self._run.stop_request(trial_id).write_text("stopped by hand on W&B")

    def _remove_files(self, trial_id: str) -> None:
        kind = "run" if self._online else "offline-run"
        for folder in self._run.wandb.glob(f"{kind}-*-{self._place.run_id(trial_id)}"):
            shutil.rmtree(folder, ignore_errors=True)


def most_runs() -> int:
    """How many runs W&B's service can begin with the files that a process may open, which is raised if it can be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else max(4, (hard - _SPARE_FILES) // _FILES_PER_RUN)


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of ``epochs`` measured, and when, in W&B's own words."""
    about = (columns.TRIAL_ID, columns.REPORTED_AT)
    measured = {name: value for name, value in row.items() if name not in about and value is not None}
    return measured | {"_timestamp": row[columns.REPORTED_AT].timestamp()}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    root = OmegaConf.create()
    for path, value in flat.items():
        OmegaConf.update(root, path, value)
    nested = OmegaConf.to_container(root)
    assert isinstance(nested, dict)
    return {str(key): value for key, value in nested.items()}


def _remove(settings: dict[str, Any], path: str) -> None:
    *groups, leaf = path.split(".")
    for group in groups:
        settings = settings[group]
    del settings[leaf]
