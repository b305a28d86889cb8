"""Configurations as points, for regression, and as text, for comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import columns
from spaces import Assignment, Parameter, Space

_ABSENT = 0.5
"""Coordinate of a parameter whose condition fails: the middle, as near to one value as to another."""
_ONE_HOT = math.sqrt(0.5)
"""Two values of a list without order lie 1 apart."""


class Encoding:
    """Maps assignments of a space to points: each parameter to [0, 1], lists without order to one corner a value.

    Ranges are scaled linearly or by their logarithm, as they are drawn; a list of numbers by the place in its order,
    since people list them in steps that matter about equally.
    """

    def __init__(self, space: Space, prefix: str | tuple[str, ...] = "") -> None:
        """Of the parameters whose path begins with ``prefix`` (one of them)."""
        self._columns: list[tuple[str, Callable[[Any], float]]] = []
        for parameter in space.parameters:
            if parameter.path.startswith(prefix):
                self._columns += [(parameter.path, column) for column in _columns(parameter)]

    def __call__(self, assignments: Sequence[Assignment]) -> NDArray[np.float64]:
        """Shape ``(len(assignments), columns)``."""
        rows = [[self._cell(item, path, column) for path, column in self._columns] for item in assignments]
        return np.array(rows, dtype=np.float64).reshape(len(assignments), len(self._columns))

    @staticmethod
    def _cell(assignment: Assignment, path: str, column: Callable[[Any], float]) -> float:
        return column(assignment[path]) if path in assignment else _ABSENT


def _columns(parameter: Parameter) -> list[Callable[[Any], float]]:
    low, high = parameter.low, parameter.high
    if parameter.distribution == "log_uniform_values":
        return [lambda value: math.log(value / low) / math.log(high / low)]
    if parameter.distribution is not None:
        return [lambda value: (value - low) / (high - low)]
    values = parameter.values
    if len(values) == 1:
        return []
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        ordered = sorted(values)
        return [lambda value: ordered.index(value) / (len(ordered) - 1)]
    if len(values) == 2:
        return [lambda value: float(values.index(value))]
    return [lambda value, own=own: _ONE_HOT * float(value == own) for own in values]  # type: ignore[misc]


def identity(assignment: Assignment) -> str:
    """The same text for equal configurations, and for one of them as Parquet has it."""
    return repr(sorted((path, columns.cell(value)) for path, value in assignment.items()))
