"""What completed trials hold equal: their values side by side, and the groups that differ in one factor only."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import columns
from search.repeats import Row, configurations
from spaces.space import Assignment, Space

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Places = NDArray[np.int64]
ABSENT = -1
"""Place of a parameter that did not exist for a trial."""


@dataclass(frozen=True)
class Observed:
    """The trials that count, side by side."""

    rows: list[Row]
    drawn: list[Assignment]
    """Values of the parameters that existed for each, as the space has them."""
    positions: Mapping[str, Places]
    """Parameter with listed values to ``(trials,)``: which of its values it took, -1 where it did not exist."""
    metrics: tuple[str, ...]
    values: Floats
    """``(trials, metrics)``; NaN for the IoU of an absent class."""
    best_first: list[Row]
    """Configurations by falling mIoU (see :func:`search.repeats.configurations`)."""
    runs: Mapping[str, Mapping[int, float]]
    """Configuration to the mIoU under each of its seeds."""


def observe(trials: Iterable[Row], space: Space, classes: Sequence[str]) -> Observed:
    """Keep the completed trials with a finite mIoU."""
    rows = [row for row in trials if row[columns.STATE] == columns.COMPLETED and is_finite(row[columns.MIOU])]
    metrics = (columns.MIOU, *map(columns.iou_column, classes))
    values = [[row[name] if is_finite(row.get(name)) else math.nan for name in metrics] for row in rows]
    by_cell = {
        parameter.path: {columns.cell(value): value for value in parameter.values} for parameter in space.parameters
    }
    drawn = [_drawn(space, by_cell, row) for row in rows]
    runs: dict[str, dict[int, float]] = {}
    for row in rows:
        runs.setdefault(configuration_of(row), {})[row[columns.SEED]] = row[columns.MIOU]
    return Observed(
        rows=rows,
        drawn=drawn,
        positions={path: _positions(path, cells, drawn) for path, cells in by_cell.items() if cells},
        metrics=metrics,
        values=np.array(values, dtype=np.float64).reshape(len(rows), len(metrics)),
        best_first=sorted(configurations(rows), key=lambda row: -row[columns.MIOU]),
        runs=runs,
    )


def is_finite(value: object) -> bool:
    """Whether a metric is there and a number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _drawn(space: Space, by_cell: Mapping[str, Mapping[Any, Any]], row: Row) -> Assignment:
    assignment: Assignment = {}
    for parameter in space.parameters:
        if parameter.applies(assignment):
            held = row.get(parameter.path)
            assignment[parameter.path] = by_cell[parameter.path].get(held, held)
    return assignment


def _positions(path: str, cells: Iterable[Any], drawn: Sequence[Assignment]) -> Places:
    order = {cell: index for index, cell in enumerate(cells)}
    taken = [order.setdefault(columns.cell(values[path]), len(order)) if path in values else ABSENT for values in drawn]
    return np.array(taken, dtype=np.int64)


@dataclass(frozen=True)
class Contexts:
    """Which trials share everything but one factor."""

    codes: Places
    """``(trials,)``: the context of each."""
    first: Places
    """``(contexts,)``: one trial of each."""

    def means(self, values: Floats, mask: Flags) -> Floats:
        """Metrics of the masked trials averaged within each context, ``(contexts, metrics)``; NaN without any."""
        part, codes = values[mask], self.codes[mask]
        known = np.isfinite(part)
        sums, hits = (np.zeros((len(self.first), values.shape[1])) for _ in range(2))
        np.add.at(sums, codes, np.where(known, part, 0))
        np.add.at(hits, codes, known)
        return np.divide(sums, hits, out=np.full_like(sums, math.nan), where=hits > 0)


def contexts_without(observed: Observed, free: Collection[str]) -> Contexts:
    """Group the trials by seed and all drawn values but those of ``free``."""
    found: dict[str, int] = {}
    codes, first = [], []
    for index, (row, drawn) in enumerate(zip(observed.rows, observed.drawn, strict=True)):
        held = repr([row[columns.SEED], *(item for item in drawn.items() if item[0] not in free)])
        if held not in found:
            found[held] = len(found)
            first.append(index)
        codes.append(found[held])
    return Contexts(np.array(codes, dtype=np.int64), np.array(first, dtype=np.int64))


def configuration_of(row: Row) -> str:
    """The configuration a trial ran; runs written before there were repeats have one each."""
    name: str = row.get(columns.CONFIGURATION) or row[columns.TRIAL_ID]
    return name
