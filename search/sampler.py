"""Which configuration is tried next: a space, an Optuna study, and what the study is told of each end."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState
from sqlalchemy.engine import URL

from search import columns
from search.config import SamplerConfig
from search.space_checks import list_grid
from spaces import Assignment, Space

_TOLD_AS = {
    columns.COMPLETED: TrialState.COMPLETE,
    columns.STOPPED: TrialState.COMPLETE,
    columns.INFEASIBLE: TrialState.PRUNED,
    columns.FAILED: TrialState.FAIL,
}


@dataclass(frozen=True)
class Draw:
    """One configuration to try."""

    trial_id: str
    assignment: Assignment


class Sampler:
    """Asks and tells one Optuna study, whose storage is the durable record of what was drawn.

    A trial stopped early is told as complete, with the values it had, and as breaking a constraint by the share of
    its budget it did not use: the model learns that it was worse than its peers, the earlier it was stopped the more,
    and it is no member of the study's front (``sampler.stopped`` has other ways). An infeasible one is told as pruned
    with its constraints broken by their relative excess; a failed one as failed, which samplers leave out.

    For people who look at the study, the user attributes ``state`` and ``reason`` of a trial are those of its row.
    """

    def __init__(self, storage: Path | None, space: Space, config: SamplerConfig, seed: int) -> None:
        """Open the study in the file ``storage``; without one it is in memory, for searches that are replayed."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._grid, self._stopped = config.name == "grid", config.stopped
        self._study = optuna.create_study(
            storage=None if storage is None else _url(storage),
            study_name="search",
            directions=_directions(),
            load_if_exists=True,
        )
        past = len(self._study.trials)
        self._study.sampler = build_sampler(config, seed + past)
        if past == 0:
            with _experimental_allowed():
                self._study.set_metric_names(list(columns.OBJECTIVES))
            self._study.set_user_attr("space", space.name)
            self._study.set_user_attr("question", space.question)
        for point in self._first_points(seed)[past:]:  # All of them, unless an earlier process came to enqueue some.
            self._study.enqueue_trial(space.enqueued(point))
        self._live: dict[str, Trial] = {}

    def ask(self) -> Draw | None:
        """The next draw; none when a grid is exhausted."""
        if self._grid and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return None
        return self._take(self._study.ask())

    def unfinished(self) -> list[Draw]:
        """Draws of an earlier process that were never told an end; they count as asked again."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [self._take(Trial(self._study, trial._trial_id)) for trial in running]

    def tell_completed(self, trial_id: str, objectives: Mapping[str, float], reason: str | None = None) -> None:
        """The trial reached its full budget; ``objectives`` as in :data:`columns.OBJECTIVES`."""
        self._constrain(trial_id, 0.0)
        self._tell(trial_id, columns.COMPLETED, reason, objectives)

    def tell_stopped(
        self, trial_id: str, objectives: Mapping[str, float], unused_share: float, reason: str | None = None
    ) -> None:
        """The scheduler stopped the trial with ``unused_share`` of its budget left."""
        if self._stopped == "left_out":
            self._tell(trial_id, columns.STOPPED, reason)
            return
        self._constrain(trial_id, unused_share if self._stopped == "constraint" else 0.0)
        self._tell(trial_id, columns.STOPPED, reason, objectives)

    def tell_infeasible(self, trial_id: str, excess: Mapping[str, float], reason: str | None = None) -> None:
        """The architecture breaks constraints; ``excess`` is how far, relative to each limit."""
        trial = self._live[trial_id]
        for name, value in excess.items():
            trial.set_constraint(name, value)
        self._tell(trial_id, columns.INFEASIBLE, reason)

    def tell_failed(self, trial_id: str, reason: str | None = None) -> None:
        """The trial ended without a result."""
        self._tell(trial_id, columns.FAILED, reason)

    def _take(self, trial: Trial) -> Draw:
        trial_id = f"t{trial.number:04d}"
        self._live[trial_id] = trial
        # A value already drawn is returned again, so a draw of an earlier process comes back unchanged.
        return Draw(trial_id, self._space.suggest(trial))

    def _constrain(self, trial_id: str, unused_share: float) -> None:
        """Set the constraint of every trial with values (GP wants the same ones on all): the unused share, or 0.

        In the form of Optuna before 5, a list without names: optuna-dashboard 0.21 knows no other, and shows a trial
        with :meth:`optuna.trial.Trial.set_constraint` as feasible and on the front.
        """
        trial = self._live[trial_id]
        trial.storage.set_trial_system_attr(trial._trial_id, "constraints", [unused_share])

    def _tell(
        self, trial_id: str, state: str, reason: str | None, objectives: Mapping[str, float] | None = None
    ) -> None:
        trial = self._live[trial_id]
        trial.set_user_attr(columns.STATE, state)
        if reason is not None:
            trial.set_user_attr(columns.REASON, reason)
        values = None if objectives is None else [objectives[name] for name in columns.OBJECTIVES]
        # FAIL is what samplers leave out; TPE takes PRUNED for good when little else is there.
        told = TrialState.FAIL if state == columns.STOPPED and values is None else _TOLD_AS[state]
        self._study.tell(self._live.pop(trial_id), values, state=told)  # Last: nothing is set after it.

    def _first_points(self, seed: int) -> list[Assignment]:
        """The baselines, and a grid's other points in random order: a grid that ends early has a bit of everything."""
        baselines = list(self._space.baselines)
        grid = list_grid(self._space) if self._grid else []
        random.Random(seed).shuffle(grid)
        return baselines + [point for point in grid if point not in baselines]


def build_sampler(config: SamplerConfig, seed: int) -> BaseSampler:
    """Optuna's sampler of that name. TPE is univariate: with groups it collapsed onto one family in simulation."""
    with _experimental_allowed():
        if config.name == "tpe":
            return TPESampler(seed=seed, n_startup_trials=config.startup_trials)
        if config.name == "gp":
            return GPSampler(seed=seed, n_startup_trials=config.startup_trials, warn_independent_sampling=False)
        if config.name == "nsga2":
            return NSGAIISampler(seed=seed)
    return RandomSampler(seed=seed)


@contextmanager
def _experimental_allowed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _url(storage: Path) -> str:
    return URL.create("sqlite", database=str(storage)).render_as_string(hide_password=False)


def _directions() -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if way == "max" else StudyDirection.MINIMIZE for way in columns.OBJECTIVES.values()]
