"""The thin adapters that let Ray Tune schedule a search: it places trials on the cluster, and decides nothing.

Ray's own experiment state is never read back: on resume the Parquet tables, the Optuna storage and the trials'
folders say everything (Ray's snapshot can be seconds old and lacks the scheduler). Nor does Tune start a trial again:
one that lost its process becomes a new trial of Tune's under its old name, in its turn and with a share of its own.
"""

from __future__ import annotations

import os
import pickle
import sys
import weakref
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.actor import ActorHandle
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import PlacementGroupFactory, Stopper
from ray.tune.execution import tune_controller
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster.connect import lost_nodes
from search import trainable
from search.capacity import Capacity, Patience
from search.engine import Search
from search.resources import Share, Sharing
from search.retries import Retries


class _Placement:
    """The trials that Tune was given and that did not end: what each has or waits for."""

    def __init__(self, sharing: Sharing, capacity: Capacity) -> None:
        self._sharing, self._capacity = sharing, capacity
        self._shares: dict[str, Share] = {}
        self._counts: Counter[Share] = Counter()
        self._started: set[str] = set()
        self.tune_controller: Any = None
        """Tune's own, once it has a trial."""
        self.drew = False
        """Whether a trial was drawn in this step of Tune's loop."""

    def share(self, trial_id: str) -> Share:
        """What a trial has or waits for."""
        return self._shares[trial_id]

    def add(self, trial_id: str, share: Share) -> None:
        """Tune gets a trial."""
        self._shares[trial_id] = share
        self._counts[share] += 1
        self.drew = True

    def turn(self, trial_id: str) -> int:
        """How many trials were given to Tune before this one and did not end."""
        return list(self._shares).index(trial_id)

    def start(self, trial_id: str) -> None:
        """A trial has its resources and its process."""
        self._started.add(trial_id)

    def remove(self, trial_id: str) -> None:
        """Tune is done with a trial."""
        share = self._shares.pop(trial_id)
        self._counts[share] -= 1
        if not self._counts[share]:
            del self._counts[share]
        self._started.discard(trial_id)

    @property
    def waiting(self) -> bool:
        """Whether a trial waits for its resources: not one whose process is just starting on them."""
        return self.tune_controller is not None and self.tune_controller._actor_manager.num_pending_actors > 0

    @property
    def stuck(self) -> Share | None:
        """What a trial waits for while no other runs."""
        if self._started or not self.waiting:
            return None
        return min(self._shares.values(), key=lambda share: share.gpus)

    def may_draw(self) -> bool:
        """Whether one more trial is worth drawing: drawn too early it would not know the results so far."""
        if not self._shares:
            return True  # Tune would block on a "not yet" while it has no trial.
        most = self._sharing.most_trials
        if self.drew or self.waiting or (most is not None and len(self._shares) >= most):
            return False
        return self._capacity.has_room(self._counts + Counter([self._sharing.least]))


class _Searcher(Searcher):
    """Hands the search's trials to Tune, one at a time and not before the cluster has room for it."""

    def __init__(self, search: Search, sharing: Sharing, retries: Retries, placement: _Placement) -> None:
        super().__init__()
        self._search, self._sharing, self._retries, self._placement = search, sharing, retries, placement

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        """See Searcher; the trial's id of ours travels in its configuration."""
        if not self._placement.may_draw():
            return None
        try:
            trial = self._search.next_trial()
        except StopIteration:
            return str(Searcher.FINISHED)
        if trial is None:
            return None
        share = self._retries.share(trial.trial_id, self._sharing.of(trial.config, trial.architecture))
        self._placement.add(trial.trial_id, share)
        return self._search.tune_config(trial, share)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the sampler is told after the record is durable."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Ray's snapshot is never read back."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


class _Scheduler(FIFOScheduler):
    """Asks the search whether a trial goes on."""

    def __init__(self, search: Search, placement: _Placement) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._search, self._placement = search, placement

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:  # noqa: ARG002
        """See TrialScheduler; nothing else of Tune's is handed its controller, which knows who waits."""
        self._placement.tune_controller = tune_controller._tune_controller

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """See TrialScheduler; Tune's own way looks at all trials there ever were, twice and at every event."""
        pending = [trial for trial in tune_controller.get_live_trials() if trial.status == Trial.PENDING]
        controller = tune_controller._tune_controller
        waiting = [trial for trial in pending if not controller.is_starting(trial)]
        return min(waiting, key=lambda trial: self._placement.turn(_id(trial)), default=None)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:  # noqa: ARG002
        """See TrialScheduler; Tune does not ask for the last epoch of the budget."""
        if trainable.WAITING in result:
            return str(TrialScheduler.CONTINUE)
        stop = self._search.stop_reason(_id(trial), result) is not None
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class _Events(tune.Callback):
    """Tells the search what happened."""

    def __init__(self, search: Search, retries: Retries, placement: _Placement, patience: Patience) -> None:
        self._search, self._retries, self._placement, self._patience = search, retries, placement, patience

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """See Callback; Tune looks ``train`` up on the actor's handle before every epoch."""
        actor = trial.temporary_state.ray_actor
        assert actor is not None, "Tune calls this when the actor is ready."
        vars(actor)["train"] = _NamedTraining(actor, trainable.trial_name(trial.config))
        self._placement.start(_id(trial))

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Any, **info: Any) -> None:  # noqa: ARG002
        """See Callback."""
        if trainable.WAITING in result:
            self._patience.hold_up(_id(trial), result[trainable.WAITING])
        else:
            self._search.report(_id(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """See Callback; failures of training are results."""
        failure = (trial.last_result or {}).get(trainable.FAILURE)
        if failure is None:
            self._placement.remove(_id(trial))
            self._search.end(_id(trial))
        else:
            share = self._placement.share(_id(trial))
            self._failed(_id(trial), self._retries.out_of_memory(_id(trial), share, failure))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ARG002
        """See Callback; only the loss of a process arrives here, and what breaks one."""
        share = self._placement.share(_id(trial))
        self._failed(_id(trial), self._retries.process_lost(_id(trial), share, _error(trial)))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:  # noqa: ARG002
        """See Callback."""
        self._placement.drew = False
        self._patience.look(self._placement.stuck)
        self._search.rest()

    def _failed(self, trial_id: str, reason: str | None) -> None:
        self._placement.remove(trial_id)
        if reason is None:
            self._search.again(trial_id)
        else:
            self._search.end(trial_id, reason)


class _GivingUp(Stopper):
    """Ends Tune's loop, trials that wait included, when patience is over."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """See Stopper."""
        return False

    def stop_all(self) -> bool:
        """See Stopper."""
        return self._patience.gave_up is not None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray's snapshot, which Tune writes all the same, is never read back; a console cannot be pickled."""
        return {}


class _Controller(TuneController):
    """Tune's own, which would move a trial whose process is starting to that of a trial that ended, and end the first.

    Where trials end more often than a process takes to start, the room that it was to have would never be used.
    """

    def is_starting(self, trial: Trial) -> bool:
        """Whether a trial that does not run yet has its resources, and its process is on its way."""
        actor = self._trial_to_actor.get(trial)
        started = actor is not None and self._actor_manager.is_actor_started(actor)  # as Ray says of one to be started
        return started and trial not in self._resetting_trials

    def _maybe_reuse_cached_actor(self, trial: Trial) -> bool:
        return not self.is_starting(trial) and bool(super()._maybe_reuse_cached_actor(trial))


class _ActorManager(RayActorManager):
    """Tune's own, which would end the whole search for a trial whose process Ray killed to free memory."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        super()._actor_task_failed(tracked_actor_task, _as_loss(exception))

    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
        super()._actor_start_failed(tracked_actor, _as_loss(exception))


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


def _as_loss(error: Exception) -> Exception:
    """An error that is neither an actor's nor a task's for what it is: the loss of the process."""
    known = isinstance(error, RayActorError | RayTaskError)
    return error if known else RayActorError(error_msg=str(error).splitlines()[0])


def _id(trial: Trial) -> str:
    return str(trial.config[trainable.TRIAL_ID])


def _error(trial: Trial) -> BaseException | None:
    """What Tune caught last of a trial."""
    file = trial.pickled_error_file
    if file is None:
        return None
    error: BaseException = pickle.loads(Path(file).read_bytes())
    return error


def _resources(config: Mapping[str, Any]) -> PlacementGroupFactory:
    """What Ray reserves as a whole before a trial starts: one bundle a worker, on one node where they fit."""
    bundle = {"CPU": config[trainable.THREADS], "GPU": config[trainable.GPUS]}
    return PlacementGroupFactory([bundle] * config[trainable.WORKERS], strategy="PACK")


def run_trials(search: Search, sharing: Sharing, capacity: Capacity, patience: Patience, ray_folder: Path) -> None:
    """Let Ray Tune schedule the search's trials until there are none left, Ctrl-C, or patience is over.

    Returns with trials of the search still running only after the last two.
    """
    os.environ.update(
        {
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they cost more per result than all we do
            "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
            "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray's snapshot is never read back
            "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the searcher says how many
            "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",  # and our patience what is missing
            "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # else Tune starts such a trial again by itself
            "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a banner however quiet it is told to be
            "RAY_CHDIR_TO_TRIAL_DIR": "0",
        }
    )
    # Tune has no other door for these two.
    vars(tune_controller)["RayActorManager"] = _ActorManager
    vars(sys.modules[tune.run.__module__])["TuneController"] = _Controller
    retries, placement = Retries(lost_nodes), _Placement(sharing, capacity)
    tune.run(
        tune.with_resources(trainable.TrialActor, _resources),
        name="tune",
        storage_path=str(ray_folder),
        search_alg=_Searcher(search, sharing, retries, placement),
        scheduler=_Scheduler(search, placement),
        callbacks=[_Events(search, retries, placement, patience)],
        stop=_GivingUp(patience),
        num_samples=-1,
        max_failures=0,
        reuse_actors=True,
        raise_on_failed_trial=False,
        trial_name_creator=_id,
        trial_dirname_creator=_id,
        verbose=0,
    )
