"""Which parameters mattered: PED-ANOVA importance for each objective and for reaching the front, and what chance gives.

PED-ANOVA compares how a parameter is distributed among the best configurations and among all: the more the two differ,
the more it mattered for being among the best. Sources: Watanabe, Bansal and Hutter, "PED-ANOVA: Efficiently Quantifying
Hyperparameter Importance in Arbitrary Subspaces", IJCAI 2023; for parameters that exist under conditions only, its
extension in Optuna's :class:`optuna.importance.PedAnovaImportanceEvaluator`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from search import columns
from search.contexts import is_finite, observe
from search.repeats import Row
from spaces.space import Space

FRONT = "front"
"""The target of reaching the front, beside the objectives: non-dominated sorting tells what is among the best."""
TARGETS = (*columns.OBJECTIVES, FRONT)
BEST_SHARE, LEAST_BEST = 0.1, 5
"""Among the best is a tenth, as in Optuna and the paper, but no fewer than five: below, Optuna warns, the estimate is
not stable."""
LEAST_CONFIGURATIONS = 20
"""Of which five are a quarter: with fewer, "the best" would be hardly any different from all."""
MOST_CONFIGURATIONS = 300
"""More are sampled down to these: intervals and chance take some 60 evaluations of each target."""
RESAMPLES = 30
"""Bootstrap resamples, and as many shuffles."""
COVERED = 0.9
"""Share of the resamples within an interval."""

Floats = NDArray[np.float64]
_DIRECTIONS = [
    StudyDirection.MAXIMIZE if way == "max" else StudyDirection.MINIMIZE for way in columns.OBJECTIVES.values()
]
_Raw = dict[str, dict[str, float]]
"""Target to parameter to the divergence that PED-ANOVA finds."""


@dataclass(frozen=True)
class Importance:
    """How much one parameter mattered for one target."""

    path: str
    share: float
    """Of the sum over all parameters; the mean over bootstrap resamples of the configurations (Breiman, "Bagging
    predictors", 1996), since the single estimate jumps with every configuration near the edge of the best."""
    interval: tuple[float, float]
    """The middle :data:`COVERED` of the shares in the resamples."""
    beyond_chance: bool
    """Whether it is larger than in every one of :data:`RESAMPLES` shuffles of the results among the configurations."""


@dataclass(frozen=True)
class Importances:
    """Of all parameters that took several values."""

    rankings: Mapping[str, tuple[Importance, ...]]
    """Target to its parameters, the most important first; a target that is the same in all configurations has none."""
    parameters: tuple[str, ...]
    configurations: int
    """Completed ones with all objectives."""
    used: int
    """Of these, :data:`MOST_CONFIGURATIONS` at most, drawn at random."""

    @property
    def possible(self) -> bool:
        """Whether there are enough configurations, and two parameters to tell apart."""
        return self.configurations >= LEAST_CONFIGURATIONS and len(self.parameters) > 1


def importances(configurations: Iterable[Row], space: Space) -> Importances:
    """PED-ANOVA importances from completed configurations, each counted once with the mean of its runs.

    Args:
        configurations: rows as :func:`search.repeats.configurations` makes them.
        space: what they were drawn from. A value that it does not hold counts as no value.
    """
    observed = observe(configurations, space, ())
    known = [index for index, row in enumerate(observed.rows) if all(is_finite(row[n]) for n in columns.OBJECTIVES)]
    random = np.random.default_rng(0)
    if len(known) > MOST_CONFIGURATIONS:
        used = sorted(random.choice(known, MOST_CONFIGURATIONS, replace=False).tolist())
    else:
        used = known
    points = [_offered(space, observed.drawn[index]) for index in used]
    values = np.array([[observed.rows[index][name] for name in columns.OBJECTIVES] for index in used], dtype=np.float64)
    paths = tuple(path for path in space.paths if len({repr(point.get(path)) for point in points}) > 1)
    found = Importances({}, paths, len(known), len(used))
    if not found.possible:
        return found
    distributions = {parameter.path: parameter.optuna_distribution() for parameter in space.parameters}
    sample = _Sample(points, values, paths, distributions)
    return Importances(_rankings(sample, random), paths, len(known), len(used))


def _offered(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as Optuna was offered it."""
    inside = [parameter.path for parameter in space.parameters if parameter.path in drawn]
    contains = {parameter.path: parameter.contains for parameter in space.parameters}
    return space.enqueued({path: drawn[path] for path in inside if contains[path](drawn[path])})


@dataclass(frozen=True)
class _Sample:
    """Configurations as Optuna sees them."""

    points: Sequence[Mapping[str, Any]]
    values: Floats
    """``(configurations, objectives)``."""
    paths: Sequence[str]
    distributions: Mapping[str, BaseDistribution]

    def raw(self, points: Iterable[int], values: Iterable[int]) -> _Raw:
        """The divergences when the configurations ``points`` have the results of ``values``."""
        study = optuna.create_study(directions=_DIRECTIONS)
        study.add_trials(
            [self._trial(self.points[point], self.values[value]) for point, value in zip(points, values, strict=True)]
        )
        trials = study.get_trials(deepcopy=False)
        present = [path for path in self.paths if any(path in trial.params for trial in trials)]
        # By attribute, which Optuna resolves at its first use: scikit-learn comes with it.
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(
            target_quantile=max(BEST_SHARE, LEAST_BEST / len(trials))
        )
        return {
            target: optuna.importance.get_param_importances(
                study, evaluator=evaluator, params=present, target=_loss(target), normalize=False
            )
            for target in TARGETS
        }

    def _trial(self, point: Mapping[str, Any], values: Floats) -> FrozenTrial:
        distributions = {path: self.distributions[path] for path in point}
        return create_trial(params=dict(point), distributions=distributions, values=values.tolist())


def _loss(target: str) -> Callable[[FrozenTrial], float] | None:
    """What Optuna is to minimise, since PED-ANOVA takes low as good; None for the front."""
    if target == FRONT:
        return None
    place, sign = list(columns.OBJECTIVES).index(target), -1 if columns.OBJECTIVES[target] == "max" else 1
    return lambda trial: sign * trial.values[place]


def _rankings(sample: _Sample, random: np.random.Generator) -> dict[str, tuple[Importance, ...]]:
    count = len(sample.points)
    everything = np.arange(count)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():  # On its sign and on rare values: seen to, and covered by the intervals.
        warnings.simplefilter("ignore")
        whole = sample.raw(everything, everything)
        drawn = [random.integers(count, size=count) for _ in range(RESAMPLES)]
        resampled = [sample.raw(indices, indices) for indices in drawn]
        shuffled = [sample.raw(everything, random.permutation(count)) for _ in range(RESAMPLES)]
    spans = dict(zip(columns.OBJECTIVES, np.ptp(sample.values, axis=0).tolist(), strict=True))
    spans[FRONT] = max(spans.values())
    return {
        target: _ranking(_can_matter(sample.paths, target), whole[target], *_of(target, resampled, shuffled))
        if spans[target]
        else ()
        for target in TARGETS
    }


def _can_matter(paths: Sequence[str], target: str) -> list[str]:
    """Latency and size are measured of the architecture at its image size, before training: nothing else enters."""
    measured = target not in (columns.MIOU, FRONT)
    return [path for path in paths if not measured or path.startswith(("model.", "data."))]


def _of(target: str, *parts: Sequence[_Raw]) -> list[list[dict[str, float]]]:
    return [[raw[target] for raw in part] for part in parts]


def _ranking(
    paths: Sequence[str],
    whole: Mapping[str, float],
    resampled: Sequence[Mapping[str, float]],
    chance: Sequence[Mapping[str, float]],
) -> tuple[Importance, ...]:
    shares = np.array([_shares(paths, raw) for raw in resampled])
    low, high = np.quantile(shares, [(1 - COVERED) / 2, (1 + COVERED) / 2], axis=0).tolist()
    means = shares.mean(axis=0).tolist()
    highest = [max(raw.get(path, 0.0) for raw in chance) for path in paths]
    found = [Importance(path, means[i], (low[i], high[i]), whole[path] > highest[i]) for i, path in enumerate(paths)]
    return tuple(sorted(found, key=lambda importance: -importance.share))


def _shares(paths: Sequence[str], raw: Mapping[str, float]) -> Floats:
    """Divergences scaled to the sum 1, or all 0."""
    values = np.array([raw.get(path, 0.0) for path in paths])
    total = values.sum()
    return values / total if total > 0 else values
