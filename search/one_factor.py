"""Mean mIoU by the values of one parameter at a time, with unpaired intervals: what was seen, not what caused it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search import columns
from search.comparisons import Effect, mean_effect, value_label
from search.contexts import is_finite
from search.repeats import Row

MOST_VALUES = 6
"""Numbers that took more values are cut into ranges."""
_PARTS, _FEW_PARTS, _ENOUGH = 4, 3, 40
"""Quarters from so many configurations on, else thirds: each then holds about ten."""


@dataclass(frozen=True)
class Level:
    """One value of a parameter, or a range of numbers."""

    label: str
    effect: Effect
    """Mean mIoU of the configurations with it, how many they are (``pairs``), and Student's t interval."""


def one_factor(configurations: Iterable[Row], path: str, listed: Sequence[Any] = ()) -> list[Level]:
    """The levels of one parameter among completed configurations with a finite mIoU, in order.

    Args:
        configurations: rows as :func:`search.repeats.configurations` makes them.
        path: the parameter; where it did not exist (null), a configuration is in no level.
        listed: its values in the space's order; without, they rise.
    """
    held = [
        (row[path], row[columns.MIOU])
        for row in configurations
        if row[columns.STATE] == columns.COMPLETED and is_finite(row[columns.MIOU]) and row[path] is not None
    ]
    distinct = {value for value, _ in held}
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    if numbers and len(distinct) > MOST_VALUES:
        return list(_ranges(held))
    order = {columns.cell(value): place for place, value in enumerate(listed)}
    rising = sorted(distinct, key=lambda value: (order.get(value, len(order)), value))
    return [Level(_label(value), mean_effect([miou for one, miou in held if one == value])) for value in rising]


def _label(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value_label(value)


def _ranges(held: Sequence[tuple[float, float]]) -> Iterator[Level]:
    """Ranges of about equally many configurations; equal numbers stay together."""
    values, mious = np.array(held, dtype=np.float64).T
    parts = _PARTS if len(values) >= _ENOUGH else _FEW_PARTS
    edges = np.quantile(values, np.arange(1, parts) / parts)
    place = np.searchsorted(edges, values, side="left")
    for part in np.unique(place):
        inside = values[place == part]
        low, high = (f"{bound:.3g}" for bound in (inside.min(), inside.max()))
        yield Level(low if low == high else f"{low} to {high}", mean_effect(mious[place == part]))
