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


@dataclass(frozen=True)
class Draw:
    """One configuration to try."""

    trial_id: str
    assignment: Assignment


class Sampler:
    """Asks and tells one Optuna study, whose storage is the durable record of what was drawn.

    A trial stopped early is told as complete, with the values it had, and as breaking the constraint ``stopped`` by
    the share of its budget it did not use: the model learns that it was worse than its peers, the earlier it was
    stopped the more, and it is no member of the study's front. An infeasible one is told as pruned with its
    constraints broken by their relative excess; a failed one as failed, which samplers leave out.
    """

    def __init__(self, storage: Path, space: Space, config: SamplerConfig, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._grid = config.name == "grid"
        url = URL.create("sqlite", database=str(storage)).render_as_string(hide_password=False)
        self._study = optuna.create_study(
            storage=url, study_name="search", directions=_directions(), load_if_exists=True
        )
        past = len(self._study.trials)
        self._study.sampler = build_sampler(config, seed + past)
        if past == 0:
            with _experimental_allowed():
                self._study.set_metric_names(list(columns.OBJECTIVES))
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

    def tell_completed(self, trial_id: str, objectives: Mapping[str, float]) -> None:
        """The trial reached its full budget; ``objectives`` as in :data:`columns.OBJECTIVES`."""
        # Said of every trial with values: GP wants the same constraints on all of them.
        self._live[trial_id].set_constraint("stopped", 0.0)
        self._tell(trial_id, objectives)

    def tell_stopped(self, trial_id: str, objectives: Mapping[str, float], unused_share: float) -> None:
        """The scheduler stopped the trial with ``unused_share`` of its budget left."""
        self._live[trial_id].set_constraint("stopped", unused_share)
        self._tell(trial_id, objectives)

    def tell_infeasible(self, trial_id: str, excess: Mapping[str, float]) -> None:
        """The architecture breaks constraints; ``excess`` is how far, relative to each limit."""
        trial = self._live[trial_id]
        for name, value in excess.items():
            trial.set_constraint(name, value)
        self._tell(trial_id, None, TrialState.PRUNED)

    def tell_failed(self, trial_id: str) -> None:
        """The trial ended without a result."""
        self._tell(trial_id, None, TrialState.FAIL)

    def _take(self, trial: Trial) -> Draw:
        trial_id = f"t{trial.number:04d}"
        self._live[trial_id] = trial
        # A value already drawn is returned again, so a draw of an earlier process comes back unchanged.
        return Draw(trial_id, self._space.suggest(trial))

    def _tell(
        self, trial_id: str, objectives: Mapping[str, float] | None, state: TrialState = TrialState.COMPLETE
    ) -> None:
        values = None if objectives is None else [objectives[name] for name in columns.OBJECTIVES]
        self._study.tell(self._live.pop(trial_id), values, state=state)

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


def _directions() -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if way == "max" else StudyDirection.MINIMIZE for way in columns.OBJECTIVES.values()]
