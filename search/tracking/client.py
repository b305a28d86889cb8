"""How W&B's client is used here: lean, bounded in time, and never asking anything of the terminal."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import wandb

from search.errors import USER_ERRORS
from search.run_folder import RunFolder
from search.tracking.place import Place, TrackingError

INIT_TIMEOUT_S, FINISH_TIMEOUT_S = 30.0, 60.0
"""Longest waits for W&B at the begin and the end of one run; its client's own are minutes, or endless."""
API_TIMEOUT_S = 20
"""Longest wait for the answer to one question."""
SEEN_AFTER_S = (0.0, 1.0, 2.0, 4.0)
"""Pauses between looks whether W&B has what it accepted."""
_log = logging.getLogger(__name__)


def init_run(
    run: RunFolder,
    place: Place,
    name: str,
    *,
    online: bool,
    job_type: str,
    config: Mapping[str, Any],
    title: str | None = None,
    sweep_id: str | None = None,
    stop_fn: Callable[[], None] | None = None,
) -> wandb.Run:
    """Begin the run ``name`` on W&B, or go on with it where W&B has it; ``stop_fn`` is called when it is told to stop.

    Raises:
        wandb.errors.Error: W&B refuses, or does not answer in time.
    """
    # What the client would tell of this process, its machine and its code is nothing about the trial.
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
        sweep_id=sweep_id,
        stop_fn=stop_fn,
    )
    return wandb.init(
        entity=place.entity,
        project=place.project,
        group=run.name,
        job_type=job_type,
        id=place.run_id(name),
        name=title or name,
        config=dict(config),
        dir=str(run.path),
        mode="online" if online else "offline",
        resume="allow" if online else None,
        reinit="create_new",
        settings=settings,
    )


def renew_service() -> None:
    """End W&B's service, with the files it keeps of runs that ended, and begin another one.

    It is begun here since threads that race for it may read no environment, and ask another server.
    """
    wandb.teardown()
    wandb.setup(wandb.Settings(silent=True))


@contextmanager
def told_as_trouble(run: RunFolder) -> Iterator[None]:
    """Let W&B's client keep its own files in the run's folder, and tell whatever its many parts raise in one way.

    Raises:
        TrackingError: in place of an error of the client's.
    """
    os.environ["WANDB_DIR"] = str(run.path)
    try:
        yield
    except USER_ERRORS:
        raise
    except Exception as error:
        _log.exception("W&B failed")
        raise TrackingError(f"W&B failed: {type(error).__name__}: {error}") from error


def finish_run(run: wandb.Run, rows: int, exit_code: int = 0) -> None:
    """End the run and see that W&B has its ``rows`` of history: when a server refuses rows its client says nothing.

    Raises:
        TrackingError: W&B has fewer rows, or does not know that the run ended.
        TimeoutError: W&B did not take the rest in time.
    """
    path, offline = f"{run.entity}/{run.project}/{run.id}", run.offline
    run.finish(exit_code=exit_code)
    if offline:
        return
    api = wandb.Api(timeout=API_TIMEOUT_S)
    for pause_s in SEEN_AFTER_S:
        time.sleep(pause_s)
        there = api.run(path)
        if there.history_line_count >= rows and there.state != "running":
            return
    raise TrackingError(
        f"W&B has {there.history_line_count} of {rows} rows of {run.name}, and says it is {there.state}"
    )
