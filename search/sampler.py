"""Which configuration is tried next: a space, an Optuna study, and what the study is told of each end."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState
from sqlalchemy.engine import URL

from search import columns
from search.config import SamplerConfig
from search.ehvi import MOST, Cost, Costs, Ehvi, Tried, architecture_part
from search.learning_curves import LearningCurves
from search.space_checks import list_grid
from search.stopping import Objectives
from spaces import Assignment, Space

_TOLD_AS = {
    columns.COMPLETED: TrialState.COMPLETE,
    columns.STOPPED: TrialState.COMPLETE,
    columns.INFEASIBLE: TrialState.PRUNED,
    columns.FAILED: TrialState.FAIL,
}
FAILED_SPREAD = 0.2
"""Standard deviation of the mIoU 0 that a failed trial counts as: a warning to its neighbourhood, not a fact."""
SOURCE = "source"
"""User attribute of a trial that another run tried: which one."""
MOST_WAITING = 16
"""Points of a grid, and baselines, that wait in the study at a time."""
_CONSTRAINTS = "constraints"
_STUDY = "search"


@dataclass(frozen=True)
class Draw:
    """One configuration to try."""

    trial_id: str
    assignment: Assignment


@dataclass(frozen=True)
class Earlier:
    """A configuration that another run tried, for the sampler to learn from."""

    source: str
    """``<run>/<trial_id>``."""
    assignment: Assignment
    objectives: Mapping[str, float]
    """At full budget, as in :data:`columns.OBJECTIVES`; empty where it breaks a limit."""
    excess: Mapping[str, float]
    """How far it is beyond each limit of this search that it breaks, relative to the limit."""


class Sampler:
    """Asks and tells one Optuna study, whose storage is the durable record of what was drawn.

    Who chooses is one of Optuna's samplers or, for ``ehvi``, :class:`search.ehvi.Ehvi`, whose choice is enqueued.

    A trial stopped early is told as complete, with the values it had, and as breaking a constraint by the share of
    its budget it did not use: the model learns that it was worse than its peers, the earlier it was stopped the more,
    and it is no member of the study's front (``sampler.stopped`` has other ways). An infeasible one is told as pruned
    with its constraints broken by their relative excess; a failed one as failed, which samplers leave out.

    For people who look at the study, the user attributes ``state`` and ``reason`` of a trial are those of its row.
    """

    def __init__(
        self,
        storage: Path | None,
        space: Space,
        config: SamplerConfig,
        seed: int,
        *,
        epochs: int,
        costs: Costs,
        earlier: Sequence[Earlier] = (),
    ) -> None:
        """Open the study in the file ``storage``; without one it is in memory, for searches that are replayed.

        Trials have ``epochs`` as their full budget, and ``costs`` tells what is known of them before.

        The trials ``earlier`` are the first ones of the study, as if they had been drawn and ended here; the search's
        own follow, from ``t0000``. Each time the study is opened the same ones must be given. A baseline or a point of
        a grid that is among them is not drawn again.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._grid, self._stopped = config.name == "grid", config.stopped
        self._before = len(earlier)
        self._study = _open_study(storage, space, earlier)
        past = len(self._study.trials)
        self._study.sampler = build_sampler(config, seed + past)
        points = [point for point in self._first_points(seed) if all(point != known.assignment for known in earlier)]
        self._points = points[past - self._before :][::-1]
        """What is drawn before anybody chooses, the last one first."""
        self._waiting = len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
        self._enqueue_points()
        self._live: dict[str, Trial] = {}
        self._curves = LearningCurves(epochs)
        known_costs = _with_earlier(costs, earlier)
        self._model = Ehvi(space, known_costs, config.startup_trials, seed) if config.name == "ehvi" else None
        self._assignments: dict[int, Assignment] = {}
        """Number to what was drawn, of trials that run."""
        self._ended: dict[int, Tried] = {}
        """Number to what the study has of a trial that ended."""
        self._completed = 0

    def report(self, trial_id: str, epoch: int, objectives: Objectives) -> None:
        """A trial reported its ``objectives`` at ``epoch``; all recorded ones are reported again after a restart."""
        self._curves.report(trial_id, epoch, objectives)

    def ask(self) -> Draw | None:
        """The next draw; none when a grid is exhausted, or all that a model could propose."""
        self._enqueue_points()
        if self._waiting:
            self._waiting -= 1
        elif self._grid:
            return None
        elif self._model is not None:
            proposed = self._model.propose(self._tried())
            if proposed is None:
                return None
            self._study.enqueue_trial(self._space.enqueued(proposed))
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
        if self._stopped == "extrapolated":
            expected = self._curves.expected(self._curves.trials[trial_id])
            if expected is not None:
                self._constrain(trial_id, 0.0)
                self._tell(trial_id, columns.STOPPED, reason, {**objectives, columns.MIOU: expected[0]})
                return
        if self._stopped in ("left_out", "extrapolated"):  # Nothing is known of an end before a trial completed.
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

    def _enqueue_points(self) -> None:
        """Have the next points wait in the study, but not too many: it reads all that wait whenever it is asked."""
        while self._points and self._waiting < MOST_WAITING:
            self._study.enqueue_trial(self._space.enqueued(self._points.pop()))
            self._waiting += 1

    def _tried(self) -> list[Tried]:
        """All that was drawn, for the model: mIoU at the end, or as the learning curve promises."""
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        return [self._as_tried(trial) for trial in trials]

    def _as_tried(self, trial: FrozenTrial) -> Tried:
        tried = self._ended.get(trial.number) or self._read(trial)
        if tried.miou is not None or (not tried.member and self._completed >= MOST):
            return tried  # With so many that completed, the model is not fitted to what is only expected.
        curve = self._curves.trials.get(self._id(trial.number))
        expected = None if curve is None else self._curves.expected(curve)
        return tried if expected is None else replace(tried, miou=expected[0], spread=expected[1])

    def _read(self, trial: FrozenTrial) -> Tried:
        """What the study has of a trial."""
        state, assignment = trial.user_attrs.get(columns.STATE), self._assignments.pop(trial.number, None)
        if assignment is None:
            assignment = self._space.suggest(FixedTrial(trial.params))
        if state is None:
            self._assignments[trial.number] = assignment
            return Tried(assignment)
        if state == columns.COMPLETED:
            tried = Tried(assignment, trial.values[0])
            self._completed += 1
        elif state == columns.FAILED:
            tried = Tried(assignment, 0.0, FAILED_SPREAD, member=False)
        else:
            tried = Tried(assignment, member=False)
        self._ended[trial.number] = tried
        return tried

    def _id(self, number: int) -> str:
        return _configuration(number, self._before)

    def _take(self, trial: Trial) -> Draw:
        trial_id = self._id(trial.number)
        self._live[trial_id] = trial
        # A value already drawn is returned again, so a draw of an earlier process comes back unchanged.
        return Draw(trial_id, self._space.suggest(trial))

    def _constrain(self, trial_id: str, unused_share: float) -> None:
        """Set the constraint of every trial with values (GP wants the same ones on all): the unused share, or 0.

        In the form of Optuna before 5, a list without names: optuna-dashboard 0.21 knows no other, and shows a trial
        with :meth:`optuna.trial.Trial.set_constraint` as feasible and on the front.
        """
        trial = self._live[trial_id]
        trial.storage.set_trial_system_attr(trial._trial_id, _CONSTRAINTS, [unused_share])

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


def _open_study(storage: Path | None, space: Space, earlier: Sequence[Earlier]) -> optuna.Study:
    """The study in the file ``storage``, or a new one, with the trials ``earlier`` before all others."""
    study = optuna.create_study(
        storage=None if storage is None else _url(storage),
        study_name=_STUDY,
        directions=_directions(),
        load_if_exists=True,
    )
    past = len(study.trials)
    if past == 0:
        with _experimental_allowed():
            study.set_metric_names(list(columns.OBJECTIVES))
        study.set_user_attr("space", space.name)
        study.set_user_attr("question", space.question)
    for known in earlier[past:]:  # All of them, unless an earlier process came to add some.
        study.add_trial(_as_told(space, known))
    return study


def drawn_configurations(storage: Path, before: int) -> set[str]:
    """Ids of the configurations that the study in the file ``storage`` has drawn, behind ``before`` earlier ones."""
    if not storage.exists() or _STUDY not in optuna.get_all_study_names(_url(storage)):
        return set()
    trials = optuna.load_study(study_name=_STUDY, storage=_url(storage)).get_trials(deepcopy=False)
    drawn = [trial.number for trial in trials if trial.state != TrialState.WAITING]
    return {_configuration(number, before) for number in drawn if number >= before}


def _configuration(number: int, before: int) -> str:
    return f"t{number - before:04d}"


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


def _with_earlier(costs: Costs, earlier: Sequence[Earlier]) -> Costs:
    """``costs``, and where an architecture was not measured in this search, what an earlier one measured."""
    known = {
        architecture_part(trial.assignment): Cost(
            trial.objectives[columns.LATENCY_MS], trial.objectives[columns.SIZE_MB]
        )
        for trial in earlier
        if trial.objectives
    }
    return lambda assignment: costs(assignment) or known.get(architecture_part(assignment))


def _as_told(space: Space, earlier: Earlier) -> FrozenTrial:
    """What the study would hold of a trial if it had been drawn and told here."""
    state = columns.INFEASIBLE if earlier.excess else columns.COMPLETED
    # NSGA-II breeds from trials of a generation; these take part in the first.
    generation = {NSGAIISampler._get_generation_key(): 0}
    return optuna.create_trial(
        state=_TOLD_AS[state],
        values=None if earlier.excess else [earlier.objectives[name] for name in columns.OBJECTIVES],
        params=space.enqueued(earlier.assignment),
        distributions={
            parameter.path: parameter.optuna_distribution()
            for parameter in space.parameters
            if parameter.path in earlier.assignment
        },
        user_attrs={columns.STATE: state, SOURCE: earlier.source},
        system_attrs=generation if earlier.excess else generation | {_CONSTRAINTS: [0.0]},
        constraints=dict(earlier.excess),
    )


@contextmanager
def _experimental_allowed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _url(storage: Path) -> str:
    return URL.create("sqlite", database=str(storage)).render_as_string(hide_password=False)


def _directions() -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if way == "max" else StudyDirection.MINIMIZE for way in columns.OBJECTIVES.values()]
