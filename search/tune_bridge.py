"""The thin adapters that let Ray Tune schedule a search: it places trials on the cluster, and decides nothing.

Ray's own experiment state is never read back: on resume the Parquet tables, the Optuna storage and the trials'
folders say everything (Ray's snapshot can be seconds old and lacks the scheduler).
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

from ray import tune
from ray.actor import ActorHandle
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search import trainable
from search.engine import Search
from search.resources import Share

PROCESS_RETRIES = 2
"""How often a trial whose process died goes on from its checkpoint before it counts as failed."""


class _Searcher(Searcher):
    """Hands the search's trials to Tune."""

    def __init__(self, search: Search, threads: int) -> None:
        super().__init__()
        self._search, self._threads = search, threads

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        """See Searcher; the trial's id of ours travels in its configuration."""
        try:
            trial = self._search.next_trial()
        except StopIteration:
            return str(Searcher.FINISHED)
        return None if trial is None else self._search.tune_config(trial, self._threads)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the sampler is told after the record is durable."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Ray's snapshot is never read back."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


class _Scheduler(FIFOScheduler):
    """Asks the search whether a trial goes on."""

    def __init__(self, search: Search) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._search = search

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:  # noqa: ARG002
        """See TrialScheduler; Tune does not ask for the last epoch of the budget."""
        stop = self._search.stop_reason(_id(trial), result) is not None
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class _Events(tune.Callback):
    """Tells the search what happened."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """See Callback; Tune looks ``train`` up on the actor's handle before every epoch."""
        actor = trial.temporary_state.ray_actor
        assert actor is not None, "Tune calls this when the actor is ready."
        vars(actor)["train"] = _NamedTraining(actor, trainable.trial_name(trial.config))

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Any, **info: Any) -> None:  # noqa: ARG002
        """See Callback."""
        self._search.report(_id(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """See Callback."""
        self._search.end(_id(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """See Callback; only the loss of a process arrives here, failures of training are results."""
        self._search.end(_id(trial), f"The trial's process died: {trial.get_error()}")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """See Callback."""
        self._search.ledger.flush_if_due()


class _NamedTraining:
    """In place of a handle's ``train``: the same call, as a task named after the trial.

    An actor's own name is that of its first trial for ever, as actors are reused; the name of a task is what Ray's
    dashboard lists and groups by, and what the process is called (``ps``, ``top``) while the task runs.
    """

    def __init__(self, actor: ActorHandle[Any], name: str) -> None:
        self._actor = weakref.proxy(actor)  # The handle holds this; a cycle would outlive the last use of the actor.
        self._name = name

    def remote(self) -> Any:
        """Train one epoch; returns the reference to its result."""
        train: Any = self._actor.__getattr__("train")  # The actor's own, which this hides.
        return train.options(name=self._name).remote()


def _id(trial: Trial) -> str:
    return str(trial.config[trainable.TRIAL_ID])


def run_trials(search: Search, share: Share, ray_folder: Path) -> None:
    """Let Ray Tune schedule the search's trials until there are none left, or Ctrl-C.

    Returns with trials of the search still running only after Ctrl-C.
    """
    os.environ.update(
        {
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they cost more per result than all we do
            "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
            "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray's snapshot is never read back
            "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a banner however quiet it is told to be
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
        }
    )
    tune.run(
        trainable.TrialActor,
        resources_per_trial={"cpu": share.cpus, "gpu": share.gpus},
        name="tune",
        storage_path=str(ray_folder),
        search_alg=_Searcher(search, share.cpus),
        scheduler=_Scheduler(search),
        callbacks=[_Events(search)],
        num_samples=-1,
        max_concurrent_trials=share.concurrent,
        max_failures=PROCESS_RETRIES,
        reuse_actors=True,
        raise_on_failed_trial=False,
        trial_name_creator=_id,
        trial_dirname_creator=_id,
        verbose=0,
    )
