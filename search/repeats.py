"""Repeats: a drawn configuration that is trained under several seeds, and what its runs say together.

A configuration runs once; only if that run completes do its repeats follow, and those are never stopped early:
stopping the unlucky seeds would raise the mean of the rest.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from search import columns

Row = dict[str, Any]
"""One trial or configuration: column name to value."""


def repeat_id(configuration: str, repeat: int) -> str:
    """The ``trial_id`` of a configuration's run number ``repeat``."""
    return configuration if repeat == 0 else f"{configuration}-{repeat}"


def split_id(trial_id: str) -> tuple[str, int]:
    """Configuration and number of the run: the inverse of :func:`repeat_id`."""
    configuration, _, repeat = trial_id.partition("-")
    return configuration, int(repeat or 0)


def missing_repeats(ended: Mapping[int, Mapping[str, Any]], repeats: int) -> list[int]:
    """Which runs a configuration still needs.

    Args:
        ended: number of the run to its row of ``trials``, for the runs that ended.
        repeats: runs of a configuration whose first one completes.
    """
    if 0 not in ended:
        return [0]
    if ended[0][columns.STATE] != columns.COMPLETED:
        return []
    return [repeat for repeat in range(1, repeats) if repeat not in ended]


def configurations(trials: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row a configuration, in order of first appearance.

    It is the row of the first run, with the metrics averaged over the completed runs, and two columns more:
    ``repeats``, the number of completed runs, and ``miou_std``, the sample standard deviation of their mIoU (None
    below two). A class absent from some runs is averaged over the others. Runs that did not complete are named in
    ``reason``.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in trials:
        groups.setdefault(row.get(columns.CONFIGURATION) or row[columns.TRIAL_ID], []).append(row)
    return [summarise(sorted(rows, key=lambda row: row.get(columns.REPEAT) or 0)) for rows in groups.values()]


def summarise(rows: Sequence[Mapping[str, Any]]) -> Row:
    """The row of one configuration from those of its runs, the first run first."""
    first = dict(rows[0])
    done = [row for row in rows if row[columns.STATE] == columns.COMPLETED]
    summary = {columns.REPEATS: len(done), columns.MIOU_STD: _spread(done)}
    if len(rows) == 1 or not done:
        return first | summary
    averages = {name: _mean(row.get(name) for row in done) for name in first if _is_averaged(name)}
    return first | averages | summary | {columns.REASON: _reason(rows)}


def configurations_table(trials: pa.Table) -> pa.Table:
    """:func:`configurations` of a ``trials`` table, as a table."""
    if not trials.num_rows:
        return trials
    schema = trials.schema.append(pa.field(columns.REPEATS, pa.int64()))
    schema = schema.append(pa.field(columns.MIOU_STD, pa.float64()))
    return pa.Table.from_pylist(configurations(trials.to_pylist()), schema=schema)


def _is_averaged(name: str) -> bool:
    return name in columns.RUN_METRICS or name.startswith(columns.iou_column(""))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _spread(done: Sequence[Mapping[str, Any]]) -> float | None:
    mious = [row[columns.MIOU] for row in done if row[columns.MIOU] is not None]
    if len(mious) < 2:
        return None
    return statistics.stdev(mious) if all(map(math.isfinite, mious)) else math.nan


def _reason(rows: Sequence[Mapping[str, Any]]) -> str | None:
    short = [row for row in rows if row[columns.STATE] != columns.COMPLETED]
    told = "; ".join(f"{row[columns.TRIAL_ID]} {row[columns.STATE]}: {row[columns.REASON]}" for row in short)
    return f"{len(short)} of {len(rows)} runs did not complete: {told}" if short else None
