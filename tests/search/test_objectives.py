from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from search import columns
from search.objectives import (
    best,
    completed,
    fastest_near_best,
    front,
    hypervolume,
    knee,
    non_dominated,
    reference_point,
)

NAMES = (columns.TRIAL_ID, columns.STATE, columns.MIOU, columns.LATENCY_MS, columns.SIZE_MB)


def trials(*rows: tuple[Any, ...]) -> pa.Table:
    """Rows of (state, mIoU, latency, size); ids count up from t0."""
    named = [dict(zip(NAMES, (f"t{index}", *row), strict=True)) for index, row in enumerate(rows)]
    return pa.Table.from_pylist(named, schema=columns.trials_schema({}, []))


def ids(rows: pa.Table) -> list[str]:
    names: list[str] = rows.column(columns.TRIAL_ID).to_pylist()
    return names


def dominated_by_definition(values: np.ndarray) -> np.ndarray:
    gains = values * [1, -1, -1]
    at_least = (gains[:, None] >= gains[None]).all(axis=2)
    better = (gains[:, None] > gains[None]).any(axis=2)
    return np.asarray((at_least & better).any(axis=0))


@pytest.mark.parametrize("decimals", [1, 6])
def test_non_dominated_agrees_with_the_definition(decimals: int) -> None:
    values = np.random.default_rng(0).random((200, 3)).round(decimals)
    assert (non_dominated(values) == ~dominated_by_definition(values)).all()


def test_non_dominated_never_keeps_a_point_that_is_not_finite() -> None:
    values = np.array([[0.5, 1, 1], [math.nan, 0.1, 0.1], [math.inf, 2, 2], [0.4, 0.5, 1]])
    assert non_dominated(values).tolist() == [True, False, False, True]
    assert non_dominated(np.empty((0, 3))).tolist() == []


def test_non_dominated_in_other_directions() -> None:
    values = np.array([[1.0, 1.0], [2.0, 2.0], [1.0, 2.0]])
    assert non_dominated(values, ["max", "max"]).tolist() == [False, True, False]
    assert non_dominated(values, ["min", "max"]).tolist() == [False, False, True]


def test_front_has_completed_trials_only_and_the_fastest_first() -> None:
    table = trials(
        ("completed", 0.6, 20.0, 40.0),
        ("completed", 0.5, 5.0, 10.0),
        ("stopped", 0.9, 1.0, 1.0),
        ("completed", 0.5, 6.0, 11.0),
        ("completed", math.nan, 0.1, 0.1),
        ("completed", None, 0.1, 0.1),
        ("completed", 0.99, None, 0.1),
        ("completed", 0.55, 30.0, 2.0),
        ("failed", None, None, None),
    )
    assert ids(completed(table)) == ["t0", "t1", "t3", "t4", "t5", "t6", "t7"]
    assert ids(front(table)) == ["t1", "t0", "t7"]


def test_equal_trials_are_both_on_the_front() -> None:
    assert ids(front(trials(("completed", 0.5, 5.0, 1.0), ("completed", 0.5, 5.0, 1.0)))) == ["t0", "t1"]


def test_best_and_fastest_near_it() -> None:
    table = trials(
        ("completed", 0.600, 20.0, 40.0),
        ("completed", 0.591, 9.0, 30.0),
        ("completed", 0.589, 5.0, 20.0),
        ("completed", 0.600, 25.0, 10.0),
    )
    members = front(table)
    top, fast, faster = best(members), fastest_near_best(members), fastest_near_best(members, within=0.02)
    assert top is not None
    assert fast is not None
    assert faster is not None
    assert [row[columns.TRIAL_ID] for row in (top, fast, faster)] == ["t0", "t1", "t2"]


def test_knee_is_the_compromise() -> None:
    members = front(
        trials(
            ("completed", 0.30, 1.0, 1.0),
            ("completed", 0.58, 2.0, 2.0),
            ("completed", 0.59, 40.0, 40.0),
            ("completed", 0.60, 100.0, 100.0),
        )
    )
    row = knee(members)
    assert row is not None
    assert row[columns.TRIAL_ID] == "t1"


def test_knee_with_an_objective_that_is_constant() -> None:
    rows = [("completed", 0.3, 1.0, 7.0), ("completed", 0.55, 2.0, 7.0), ("completed", 0.6, 50.0, 7.0)]
    row = knee(front(trials(*rows)))
    assert row is not None
    assert row[columns.TRIAL_ID] == "t1"


def test_fewer_than_three_distinct_points_have_no_knee() -> None:
    two = [("completed", 0.3, 1.0, 7.0), ("completed", 0.6, 2.0, 7.0)]
    assert knee(front(trials(*two))) is None
    assert knee(front(trials(*two, two[0]))) is None


def test_hypervolume_of_one_point_is_its_share_of_the_box() -> None:
    table = trials(("completed", 0.5, 5.0, 2.0))
    corner = {columns.MIOU: 0.0, columns.LATENCY_MS: 10.0, columns.SIZE_MB: 4.0}
    assert hypervolume(table, corner) == pytest.approx(0.5 * 0.5 * 0.5)


def test_hypervolume_grows_with_a_point_that_is_not_dominated_and_only_then() -> None:
    corner = {columns.MIOU: 0.0, columns.LATENCY_MS: 10.0, columns.SIZE_MB: 4.0}
    first = ("completed", 0.5, 5.0, 2.0)
    before = hypervolume(trials(first), corner)
    assert hypervolume(trials(first, ("completed", 0.4, 6.0, 3.0)), corner) == before
    assert hypervolume(trials(first, ("stopped", 0.9, 1.0, 1.0)), corner) == before
    assert hypervolume(trials(first, ("completed", 0.9, 11.0, 1.0)), corner) == before
    assert hypervolume(trials(first, ("completed", 0.4, 1.0, 3.0)), corner) > before


def test_default_reference_point_is_the_worst_of_the_completed_and_a_tenth() -> None:
    table = trials(("completed", 0.5, 5.0, 2.0), ("completed", 0.4, 10.0, 1.0), ("stopped", 0.4, 99.0, 99.0))
    assert reference_point(table) == pytest.approx({columns.MIOU: 0, columns.LATENCY_MS: 11, columns.SIZE_MB: 2.2})
    assert 0 < hypervolume(table) < 1


@pytest.mark.parametrize("table", [pa.schema([]).empty_table(), trials(), trials(("stopped", 0.4, 1.0, 1.0))])
def test_no_completed_trial(table: pa.Table) -> None:
    members = front(table)
    assert members.num_rows == 0
    assert (best(members), knee(members), fastest_near_best(members)) == (None, None, None)
    assert hypervolume(table) == 0
    assert reference_point(table) == {}
