"""Weights & Biases: one run a trial, fed from one thread, so that W&B never slows or stops a search."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.lib import wbauth

from search import columns
from search.config import TrackingConfig
from search.ledger import TrialRecord
from trainers.settings import ConfigError

QUEUE_SIZE = 10_000
"""Events that may wait for W&B; beyond it tracking ends and says so, and the search goes on."""
DRAIN_S = 60.0
"""Longest wait for W&B at the end of a search."""
_log = logging.getLogger(__name__)


def resolve_mode(mode: str) -> str:
    """``auto`` becomes what ``WANDB_MODE`` says, else ``online`` when logged in, else ``offline``.

    Raises:
        ConfigError: ``online`` without being logged in, or a key that cannot be one.
    """
    wished = os.environ.get("WANDB_MODE")
    if mode == "auto" and wished in ("offline", "disabled"):
        mode = "offline" if wished == "offline" else "off"
    if mode in ("off", "offline"):
        return mode
    logged_in = _logged_in()
    if mode == "online" and not logged_in:
        raise ConfigError(
            "tracking.mode=online, but nobody is logged in to W&B here. Run 'wandb login', set WANDB_API_KEY, "
            "or use tracking.mode=offline."
        )
    if mode == "auto":
        return "online" if logged_in else "offline"
    return mode


def _logged_in() -> bool:
    """Whether the environment or a netrc file has credentials for the W&B server in use; asks nobody."""
    host = wandb.setup(wandb.Settings(silent=True)).settings.base_url
    try:
        return wbauth.authenticate_session(host=host, source="search", prompt=False) is not None
    except wandb.errors.AuthenticationError as error:
        raise ConfigError(
            f"The W&B credentials found here cannot be right: {error}. Use tracking.mode=offline?"
        ) from error


class Tracker:
    """Observer that mirrors a search into W&B, offline below ``<run folder>/wandb`` or online."""

    def __init__(self, config: TrackingConfig, mode: str, folder: Path, group: str) -> None:
        self._config, self._mode, self._folder, self._group = config, mode, folder, group
        self._runs: dict[str, Any] = {}
        self._events: queue.Queue[Callable[[], None] | None] = queue.Queue(QUEUE_SIZE)
        self.trouble: str | None = None
        """What went wrong with W&B, for the end of the search; none when nothing did."""
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def trial_started(self, trial: TrialRecord) -> None:
        """See Observer."""
        self._put(lambda: self._open(trial))

    def epoch_reported(self, trial: TrialRecord, row: Mapping[str, Any]) -> None:
        """See Observer."""
        skipped = (columns.TRIAL_ID, columns.REPORTED_AT)
        metrics = {name: value for name, value in row.items() if name not in skipped} | trial.costs
        self._put(lambda: self._runs[trial.trial_id].log(metrics))

    def trial_ended(self, row: Mapping[str, Any]) -> None:
        """See Observer; a trial that never trained has no run."""
        self._put(lambda: self._close(row))

    def close(self) -> None:
        """Wait for W&B to take what is queued, at most :data:`DRAIN_S`."""
        self._put(None)
        self._thread.join(DRAIN_S)
        if self._thread.is_alive():
            self.trouble = f"W&B did not take everything within {DRAIN_S:.0f} s ({self._events.qsize()} events left)"

    def _put(self, event: Callable[[], None] | None) -> None:
        if self.trouble is None or event is None:
            try:
                self._events.put_nowait(event)
            except queue.Full:
                self.trouble = f"W&B fell {QUEUE_SIZE} events behind, tracking ended there"

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                event()
            except Exception as error:  # whatever W&B raises must not reach the search
                _log.exception("W&B failed")
                self.trouble = self.trouble or f"W&B failed, tracking ended there: {error}"
        for run in self._runs.values():
            run.finish()

    def _open(self, trial: TrialRecord) -> None:
        settings = wandb.Settings(silent=True, console="off", init_timeout=30)
        run = wandb.init(
            entity=self._config.entity,
            project=self._config.project,
            group=self._group,
            job_type="trial",
            id=f"{self._group}-{trial.trial_id}",
            name=trial.trial_id,
            config=trial.config.to_dict(),
            dir=str(self._folder),
            mode="online" if self._mode == "online" else "offline",
            resume="allow" if self._mode == "online" else None,
            reinit="create_new",
            settings=settings,
        )
        # Rows carry their epoch: W&B drops rows whose own step repeats, as after a restart.
        run.define_metric(columns.EPOCH)
        run.define_metric("*", step_metric=columns.EPOCH)
        run.summary.update({**trial.costs, columns.PARAMS: trial.architecture[columns.PARAMS]})
        self._runs[trial.trial_id] = run

    def _close(self, row: Mapping[str, Any]) -> None:
        run = self._runs.pop(row[columns.TRIAL_ID], None)
        if run is None:
            return
        kept = (columns.STATE, columns.REASON, columns.EPOCH, columns.BEST_EPOCH, columns.MIOU, *columns.OBJECTIVES)
        run.summary.update({name: row.get(name) for name in kept})
        run.finish(exit_code=1 if row[columns.STATE] == columns.FAILED else 0)
