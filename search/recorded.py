"""Learning curves of a run whose trials all went to their full budget: what a search policy is replayed on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow.compute as pc

from search import columns, objectives
from search.ehvi import Cost, architecture_part
from search.encoding import identity
from search.repeats import Row
from search.results import ResultsError, last_rows
from search.run_folder import RunFolder
from spaces import Assignment, Parameter, Space


@dataclass(frozen=True)
class Curve:
    """One trained configuration."""

    trial_id: str
    assignment: Assignment
    costs: Mapping[str, float]
    """Latency and size."""
    mious: tuple[float, ...]
    """After each epoch, from the first."""
    epoch_time_s: tuple[float, ...]
    """Seconds of each epoch."""


@dataclass(frozen=True)
class Recording:
    """All curves of a space, and the corner that their hypervolume is measured from."""

    space: Space
    curves: tuple[Curve, ...]
    reference: Mapping[str, float]

    @property
    def epochs(self) -> int:
        """Full budget of a trial."""
        return len(self.curves[0].mious)

    def nearest(self, assignment: Assignment) -> tuple[Curve, float]:
        """The curve of the configuration most like a drawn one, and how unlike it is (:func:`distance`)."""
        exact = self._exact.get(identity(assignment))
        if exact is not None:
            return exact, 0.0
        away = [distance(self.space, assignment, curve.assignment) for curve in self.curves]
        place = int(np.argmin(away))
        return self.curves[place], away[place]

    def cost(self, assignment: Assignment) -> Cost:
        """Latency and size of the same architecture, or else of the nearest configuration."""
        return self._costs.get(architecture_part(assignment)) or _cost(self.nearest(assignment)[0])

    @cached_property
    def _exact(self) -> Mapping[str, Curve]:
        return {identity(curve.assignment): curve for curve in self.curves}

    @cached_property
    def _costs(self) -> Mapping[str, Cost]:
        return {architecture_part(curve.assignment): _cost(curve) for curve in self.curves}


def _cost(curve: Curve) -> Cost:
    return Cost(curve.costs[columns.LATENCY_MS], curve.costs[columns.SIZE_MB])


def distance(space: Space, first: Assignment, second: Assignment) -> float:
    """Sum over the parameters of how much two configurations differ in each, from 0 to 1 (Gower 1971, without weights).

    A parameter that only one of them has, or two values of a list, differ by 1; numbers of a range by their difference
    over the range, logarithmic where the range is.
    """
    return sum(_difference(parameter, first, second) for parameter in space.parameters)


def _difference(parameter: Parameter, first: Assignment, second: Assignment) -> float:
    path = parameter.path
    if path not in first or path not in second:
        return float((path in first) != (path in second))
    a, b = first[path], second[path]
    if parameter.distribution is None:
        return float(columns.cell(a) != columns.cell(b))
    low, high = float(parameter.low or 0), float(parameter.high or 0)
    if parameter.distribution == "log_uniform_values":
        a, b, low, high = (math.log(value) for value in (a, b, low, high))
    return abs(a - b) / (high - low) if high > low else 0.0


def read_recording(run: RunFolder, space: Space) -> Recording:
    """The curves of the completed trials of a run, repeats under further seeds left out.

    Raises:
        ResultsError: no trial went to its full budget, or budgets differ.
    """
    trials = run.read_trials()
    table = run.read_epochs()
    if not trials.num_rows or not table.num_rows:
        raise ResultsError(f"Run {run.name} has no trial with a learning curve.")
    epochs = last_rows(table, [columns.TRIAL_ID, columns.EPOCH])
    epochs = epochs.sort_by([(columns.TRIAL_ID, "ascending"), (columns.EPOCH, "ascending")])
    completed = objectives.completed(last_rows(trials, [columns.TRIAL_ID]))
    first_runs = completed.filter(pc.equal(completed.column(columns.REPEAT), 0))
    names = [columns.TRIAL_ID, columns.MIOU, columns.EPOCH_TIME_S]
    by_trial: dict[str, list[Row]] = {}
    for row in epochs.select(names).to_pylist():
        by_trial.setdefault(row[columns.TRIAL_ID], []).append(row)
    curves = [_curve(space, row, by_trial.get(row[columns.TRIAL_ID], [])) for row in first_runs.to_pylist()]
    lengths = sorted({len(curve.mious) for curve in curves})
    if len(lengths) != 1 or lengths == [0]:
        found = f"lengths {', '.join(map(str, lengths))}" if lengths else "none"
        raise ResultsError(
            f"A replay needs completed trials with learning curves of one length; run {run.name} has {found}."
        )
    return Recording(space, tuple(curves), objectives.reference_point(first_runs))


def _curve(space: Space, row: Row, epochs: list[Row]) -> Curve:
    return Curve(
        trial_id=row[columns.TRIAL_ID],
        assignment={path: row[path] for path in space.paths if row.get(path) is not None},
        costs={name: row[name] for name in (columns.LATENCY_MS, columns.SIZE_MB)},
        mious=tuple(math.nan if each[columns.MIOU] is None else each[columns.MIOU] for each in epochs),
        epoch_time_s=tuple(each[columns.EPOCH_TIME_S] for each in epochs),
    )
