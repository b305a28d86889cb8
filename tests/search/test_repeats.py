"""Repeats of a configuration under several seeds: which are missing, and what they say together."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from search import columns
from search.repeats import configurations, configurations_table, missing_repeats, repeat_id, split_id


def row(
    configuration: str, repeat: int, miou: float | None, state: str = columns.COMPLETED, **more: Any
) -> dict[str, Any]:
    return {
        columns.TRIAL_ID: repeat_id(configuration, repeat),
        columns.CONFIGURATION: configuration,
        columns.REPEAT: repeat,
        columns.STATE: state,
        columns.REASON: None if state == columns.COMPLETED else "because",
        columns.MIOU: miou,
        columns.LATENCY_MS: 5.0,
    } | more


@pytest.mark.parametrize("repeat", [0, 1, 12])
def test_ids_can_be_taken_apart(repeat: int) -> None:
    assert split_id(repeat_id("t0042", repeat)) == ("t0042", repeat)


@pytest.mark.parametrize(
    ("ended", "missing"),
    [
        ({}, [0]),
        ({0: columns.COMPLETED}, [1, 2]),
        ({0: columns.COMPLETED, 2: columns.FAILED}, [1]),
        ({0: columns.COMPLETED, 1: columns.COMPLETED, 2: columns.COMPLETED}, []),
        ({0: columns.STOPPED}, []),
        ({0: columns.FAILED}, []),
        ({0: columns.INFEASIBLE}, []),
    ],
)
def test_repeats_follow_only_a_completed_run(ended: dict[int, str], missing: list[int]) -> None:
    assert missing_repeats({repeat: {columns.STATE: state} for repeat, state in ended.items()}, 3) == missing


def test_metrics_are_averaged_and_costs_are_not() -> None:
    measured = [(0.2, None), (0.5, 0.1), (0.5, 0.3)]
    rows = [row("t0000", repeat, miou) | {"iou/car": iou} for repeat, (miou, iou) in enumerate(measured)]
    (summary,) = configurations(reversed(rows))
    assert summary[columns.TRIAL_ID] == "t0000"
    assert summary[columns.MIOU] == pytest.approx(0.4)
    assert summary[columns.MIOU_STD] == pytest.approx(math.sqrt(0.03))
    assert summary["iou/car"] == pytest.approx(0.2)  # absent from the first run
    assert (summary[columns.LATENCY_MS], summary[columns.REPEATS], summary[columns.REASON]) == (5.0, 3, None)


def test_a_failed_repeat_counts_in_no_mean_and_is_named() -> None:
    rows = [row("t0000", 0, 0.4), row("t0000", 1, 0.9, columns.FAILED), row("t0000", 2, 0.6)]
    (summary,) = configurations(rows)
    assert summary[columns.MIOU] == pytest.approx(0.5)
    assert summary[columns.REPEATS] == 2
    assert summary[columns.REASON] == "1 of 3 runs did not complete: t0000-1 failed: because"


def test_a_configuration_that_was_stopped_stays_what_it_was() -> None:
    (summary,) = configurations([row("t0000", 0, 0.4, columns.STOPPED)])
    assert (summary[columns.STATE], summary[columns.MIOU], summary[columns.REPEATS]) == (columns.STOPPED, 0.4, 0)
    assert summary[columns.MIOU_STD] is None


def test_a_table_keeps_its_columns_and_gains_two() -> None:
    table = pa.Table.from_pylist([row("t0000", 0, 0.4), row("t0001", 0, 0.6), row("t0000", 1, 0.5)])
    tried = configurations_table(table)
    assert tried.column_names == [*table.column_names, columns.REPEATS, columns.MIOU_STD]
    assert tried.column(columns.MIOU).to_pylist() == pytest.approx([0.45, 0.6])
    assert configurations_table(table.slice(0, 0)).num_rows == 0


def test_a_nan_is_not_hidden_in_the_mean() -> None:
    (summary,) = configurations([row("t0000", 0, 0.4), row("t0000", 1, math.nan)])
    assert math.isnan(summary[columns.MIOU])
    assert math.isnan(summary[columns.MIOU_STD])
