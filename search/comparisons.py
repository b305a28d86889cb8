"""Does it help? Paired comparisons of the values of a factor, with confidence intervals, from the trials of a search.

A *factor* is a parameter of the space, or several that vary together; its *levels* are the values it took. Two trials
make a pair when they differ in the factor only: every other drawn parameter and the seed are the same, hence the order
of batches and the augmentation too. What is held equal is the pair's *context*. Parameters that exist only under some
levels (ASPP rates without ASPP) cannot be held equal: trials that differ in them are averaged, so that each context
counts once. Only completed trials take part.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from search import columns
from search.contexts import ABSENT, Contexts, Flags, Floats, Observed, configuration_of, contexts_without, observe
from search.repeats import Row
from spaces.parameter import Parameter
from spaces.space import Assignment, Space

CONFIDENCE = 0.95
"""Of every interval here."""
_MEANINGLESS = 12
"""Decimals of mIoU beyond which a difference is rounding in the arithmetic, not in the models."""


@dataclass(frozen=True)
class Effect:
    """A mean of independent differences, in units of IoU (1 is everything, 0.01 one point)."""

    mean: float
    pairs: int
    interval: tuple[float, float] | None
    """At :data:`CONFIDENCE`; None for one pair, which cannot tell how much pairs differ."""

    @property
    def shown(self) -> bool:
        """Whether the interval excludes no difference at all."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Split:
    """The effect within one value of another parameter."""

    path: str
    value: str
    effect: Effect


@dataclass(frozen=True)
class Contrast:
    """One level against the reference."""

    level: str
    reference: str
    effect: Effect | None
    """Difference in mIoU, level minus reference; None when there is no pair."""
    splits: tuple[Split, ...]
    """Where another parameter took several values: the effect within each, from two pairs on."""
    depends_on: tuple[str, ...]
    """Parameters between whose values the effect differs by more than pairs of one value do."""
    classes: Mapping[str, Effect]
    """Class to its difference in IoU over the same pairs."""
    best: Effect | None
    """Difference of the best configurations of the two, paired by seed; None when they share no seed."""


@dataclass(frozen=True)
class Level:
    """What one level reached."""

    label: str
    trials: tuple[Row, ...]
    configurations: int
    mean: float
    """mIoU over all trials of the level, whatever else they differ in."""
    std: float | None
    """Sample standard deviation of the same; None for one trial."""
    interval: tuple[float, float] | None
    """Of ``mean``, unpaired."""
    best: Row
    """The configuration of highest mIoU, averaged over its runs (see :func:`search.repeats.configurations`)."""
    typical: Mapping[str, float | None]
    """mIoU and class IoU columns, averaged over the contexts that all levels share, or else over all trials."""


@dataclass(frozen=True)
class Factor:
    """The comparison of one factor; the first level is the reference."""

    paths: tuple[str, ...]
    levels: tuple[Level, ...]
    contrasts: tuple[Contrast, ...]
    shared_contexts: int
    """Contexts in which every level was run."""

    @property
    def name(self) -> str:
        """Its parameters."""
        return " and ".join(self.paths)

    @property
    def paired(self) -> bool:
        """Whether there is a pair at all."""
        return any(contrast.effect for contrast in self.contrasts)


@dataclass(frozen=True)
class Comparisons:
    """All factors of a space, and those that cannot be compared."""

    factors: tuple[Factor, ...]
    ranges: tuple[tuple[str, ...], ...]
    """Factors with a continuous parameter: they have no levels."""
    constant: tuple[tuple[str, ...], ...]
    """Factors with fewer than two levels among the completed trials."""


def compare(trials: Iterable[Row], space: Space, classes: Sequence[str] = ()) -> Comparisons:
    """Compare the factors that the space's question is about; without any, every parameter that took several values.

    Args:
        trials: rows of the table ``trials``; those not completed or without a finite mIoU are left out.
        space: the space they were drawn from.
        classes: names of the classes to compare too.
    """
    observed = observe(trials, space, classes)
    wanted = space.compare or tuple((parameter.path,) for parameter in space.parameters if parameter.values)
    listed = {parameter.path for parameter in space.parameters if parameter.values}
    ranges = tuple(paths for paths in wanted if not listed.issuperset(paths))
    factors = {paths: _factor(observed, space, paths) for paths in wanted if paths not in ranges}
    constant = tuple(paths for paths, factor in factors.items() if factor is None) if space.compare else ()
    return Comparisons(tuple(factor for factor in factors.values() if factor), ranges, constant)


def mean_effect(differences: Sequence[float] | Floats) -> Effect:
    """The mean of at least one difference, with Student's t interval.

    Source: Student, "The probable error of a mean", 1908.
    """
    values: Floats = np.asarray(differences, dtype=np.float64).round(_MEANINGLESS)
    mean = float(values.mean()) if np.ptp(values) else float(values[0])
    return Effect(mean, len(values), _interval(mean, values))


def _interval(mean: float, values: Floats) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    half = _t_quantile(len(values) - 1) * _spread(values) / math.sqrt(len(values))
    return mean - half, mean + half


def _spread(values: Floats) -> float:
    """Sample standard deviation, exactly 0 for equal values."""
    return float(values.std(ddof=1)) if np.ptp(values) else 0.0


@functools.cache
def _t_quantile(freedom: int) -> float:
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class _Study:
    """One factor under comparison."""

    observed: Observed
    space: Space
    paths: tuple[str, ...]
    dependents: Collection[str]
    members: Mapping[str, Flags]
    """Level to the mask of its trials, the reference first."""
    contexts: Contexts

    @functools.cached_property
    def means(self) -> Mapping[str, Floats]:
        """Level to the metrics in each context."""
        return {level: self.contexts.means(self.observed.values, mask) for level, mask in self.members.items()}

    @functools.cached_property
    def shared(self) -> Flags:
        """The contexts in which every level was run."""
        mask: Flags = np.all([np.isfinite(table[:, 0]) for table in self.means.values()], axis=0)
        return mask


def _factor(observed: Observed, space: Space, paths: tuple[str, ...]) -> Factor | None:
    members = _members(observed, paths)
    if len(members) < 2:
        return None
    dependents = space.dependents(paths)
    study = _Study(observed, space, paths, dependents, members, contexts_without(observed, {*paths, *dependents}))
    levels = tuple(_level(study, label) for label in members)
    contrasts = tuple(_contrast(study, levels[0], level) for level in levels[1:])
    return Factor(paths, levels, contrasts, int(study.shared.sum()))


def _members(observed: Observed, paths: tuple[str, ...]) -> dict[str, Flags]:
    """Level to the mask of its trials, in the order of the space; trials without the factor are in none."""
    taken = np.stack([observed.positions[path] for path in paths], axis=1)
    members = {}
    for level in sorted({tuple(row) for row in taken.tolist()}):
        if any(position != ABSENT for position in level):
            mask = (taken == level).all(axis=1)
            members[level_label(paths, observed.drawn[int(mask.argmax())])] = mask
    return members


def level_label(paths: Sequence[str], drawn: Assignment) -> str:
    """A level's values for people: ``true``, ``deeplab resnet18``; numbers and switches of several are named."""
    values = {path.rpartition(".")[2]: drawn[path] for path in paths if path in drawn}
    if len(paths) == 1 or all(isinstance(value, str) for value in values.values()):
        return " ".join(map(value_label, values.values()))
    return ", ".join(
        value if isinstance(value, str) else f"{name} {value_label(value)}" for name, value in values.items()
    )


def value_label(value: Any) -> str:
    """A value as the space's file writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _level(study: _Study, label: str) -> Level:
    observed, mask = study.observed, study.members[label]
    rows = [observed.rows[index] for index in np.flatnonzero(mask)]
    mious: Floats = observed.values[mask, 0]
    ids = {row[columns.TRIAL_ID] for row in rows}
    runs = [row for row in observed.best_first if row[columns.TRIAL_ID] in ids]
    typical = study.means[label][study.shared] if study.shared.any() else observed.values[mask]
    mean = float(mious.mean())
    return Level(
        label=label,
        trials=tuple(rows),
        configurations=len(runs),
        mean=mean,
        std=_spread(mious) if len(mious) > 1 else None,
        interval=_interval(mean, mious),
        best=runs[0],
        typical={name: _mean(column) for name, column in zip(observed.metrics, typical.T, strict=True)},
    )


def _mean(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _contrast(study: _Study, reference: Level, level: Level) -> Contrast:
    differences = study.means[level.label] - study.means[reference.label]
    effects = {name: _effect(column) for name, column in zip(study.observed.metrics, differences.T, strict=True)}
    overall = effects.pop(columns.MIOU)
    held_equal = (parameter for parameter in study.space.parameters if parameter.path not in study.dependents)
    return Contrast(
        level=level.label,
        reference=reference.label,
        effect=overall,
        splits=tuple(_splits(study, reference.label, level.label, differences[:, 0])) if overall else (),
        depends_on=tuple(
            parameter.path for parameter in held_equal if _differ(_parts(study, parameter, differences[:, 0]))
        ),
        classes={name: effect for name, effect in effects.items() if effect},
        best=_best_effect(study.observed, reference.best, level.best),
    )


def _effect(differences: Floats) -> Effect | None:
    known = differences[np.isfinite(differences)]
    return mean_effect(known) if len(known) else None


def _splits(study: _Study, reference: str, level: str, differences: Floats) -> Iterator[Split]:
    """The effect within each value of the other listed parameters that took several values among the pairs."""
    for parameter in study.space.parameters:
        path = parameter.path
        if path in study.paths or not parameter.values:
            continue
        if path in study.dependents:
            parts = _parts_of_dependent(study, reference, level, parameter)
        else:
            parts = _parts(study, parameter, differences)
        effects = [_effect(part) for part in parts]
        if sum(effect is not None for effect in effects) < 2:
            continue
        for value, effect in zip(parameter.values, effects, strict=True):
            if effect and effect.pairs > 1:
                yield Split(path, value_label(value), effect)


def _parts(study: _Study, parameter: Parameter, differences: Floats) -> list[Floats]:
    """Differences in each context, once a value of ``parameter``: NaN where it had another."""
    if parameter.path in study.paths or not parameter.values:
        return []
    held = study.observed.positions[parameter.path][study.contexts.first]
    return [np.where(held == index, differences, math.nan) for index in range(len(parameter.values))]


def _differ(parts: Iterable[Floats]) -> bool:
    """Whether groups of at least two differences have different means, by Fisher's one-way analysis of variance."""
    known = [part[np.isfinite(part)].round(_MEANINGLESS) for part in parts]
    groups = [part for part in known if len(part) > 1]
    if len(groups) < 2:
        return False
    if not any(np.ptp(group) for group in groups):
        return len({float(group[0]) for group in groups}) > 1
    from scipy.stats import f_oneway  # noqa: PLC0415 - as long to import as all the rest of this

    return bool(f_oneway(*groups).pvalue < 1 - CONFIDENCE)


def _parts_of_dependent(study: _Study, reference: str, level: str, parameter: Parameter) -> list[Floats]:
    """Differences in each context, with the trials that have the parameter restricted to one value after another.

    A level under which the parameter never exists keeps all its trials.
    """
    held = study.observed.positions[parameter.path]
    exists = {label: bool((held[study.members[label]] != ABSENT).any()) for label in (reference, level)}
    if not any(exists.values()):
        return []
    values = study.observed.values[:, :1]
    parts = []
    for index in range(len(parameter.values)):
        of_value = {
            label: study.contexts.means(
                values, study.members[label] & (held == index) if there else study.members[label]
            )
            for label, there in exists.items()
        }
        parts.append((of_value[level] - of_value[reference])[:, 0])
    return parts


def _best_effect(observed: Observed, reference: Row, level: Row) -> Effect | None:
    """Difference of two configurations over the seeds that both ran under."""
    ours, theirs = observed.runs[configuration_of(level)], observed.runs[configuration_of(reference)]
    seeds = sorted(ours.keys() & theirs.keys())
    return mean_effect([ours[seed] - theirs[seed] for seed in seeds]) if seeds else None
