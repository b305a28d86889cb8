"""The data behind the page's charts, as plain JSON values with rounded numbers; rows of trials are packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search import columns
from search.objectives import Row
from search.reporting.curve_data import Factor, compared, curve_metrics, curves, drawn_trials, factors
from search.reporting.packing import packed_rows
from search.reporting.palette import style
from search.reporting.record import Record, architecture_label, is_number
from search.reporting.summary import Summary, settings_of
from search.reporting.uncertainty import intervals
from search.reporting.wording import heading, written

AXES = (
    *(columns.LATENCY_MS, columns.LATENCY_GPU_MS, columns.LATENCY_CPU_MS),
    *(columns.SIZE_MB, columns.PARAMS, columns.TRAIN_TIME_S),
)
"""What mIoU can be drawn against: costs, the smaller the better."""
_BY_DEVICE = (columns.LATENCY_GPU_MS, columns.LATENCY_CPU_MS)
"""Costs that are offered only where they were measured."""


def payload(record: Record, summary: Summary) -> dict[str, Any]:
    """Everything the charts need."""
    labels = record.labels
    drawn = drawn_trials(record)
    varied = factors(record, set(drawn))
    front = {row[columns.TRIAL_ID] for row in record.front_rows}
    roles = summary.roles()
    places = {label: index for index, label in enumerate(labels)}
    return {
        "axes": [{"key": key, "heading": heading(key)} for key in AXES if _is_offered(record, key)],
        "places": intervals(record),
        "curve_metrics": curve_metrics(),
        "factors": [factor.as_json() for factor in varied],
        "compare": compared(record),
        "labels": [_label(index, label) for index, label in enumerate(labels)],
        "references": [
            {"label": entry["label"], "miou": _rounded(entry["miou"])}
            for entry in record.data["references"]
            if is_number(entry["miou"])
        ],
        "trials": packed_rows(
            [
                _trial(record, row, places)
                | {"front": row[columns.TRIAL_ID] in front, "roles": roles.get(row[columns.TRIAL_ID], ())}
                for row in record.trials
            ]
        ),
        "configurations": packed_rows(list(map(_configuration, record.configurations))) if record.repeated else None,
        "curves": curves(record, drawn) | {"factors": _places(record, drawn, varied)},
    }


def _places(record: Record, drawn: Sequence[str], varied: Sequence[Factor]) -> dict[str, Any]:
    """Where each drawn trial stands in each factor, in their order."""
    rows = {row[columns.TRIAL_ID]: row for row in record.trials}
    return packed_rows([{factor.path: factor.place(rows[trial]) for factor in varied} for trial in drawn])


def _is_offered(record: Record, cost: str) -> bool:
    return cost not in _BY_DEVICE or any(is_number(row[cost]) for row in record.trials)


def _label(index: int, name: str) -> dict[str, str]:
    look = style(index)
    return {"name": name, "color": look.color, "symbol": look.plotly_symbol}


def _configuration(row: Row) -> dict[str, Any]:
    """What a configuration of several runs shows in place of its first run."""
    done, miou = row[columns.REPEATS], written(columns.MIOU, row[columns.MIOU])
    if is_number(row[columns.MIOU_STD]):
        miou += f" ± {written(columns.MIOU_STD, row[columns.MIOU_STD])} over {done} seeds"
    numbers = {name: _rounded(row[name]) for name in (columns.MIOU, columns.TRAIN_TIME_S, columns.MIOU_STD)}
    shown = {name: written(name, row[name]) for name in AXES} | {columns.MIOU: miou}
    return {"id": row[columns.TRIAL_ID], "reason": row[columns.REASON], "shown": shown} | numbers


def _trial(record: Record, row: Row, labels: Mapping[str, int]) -> dict[str, Any]:
    numbers = {name: _rounded(row[name]) for name in (columns.MIOU, *AXES)}
    shown = {name: written(name, row[name]) for name in (columns.MIOU, *AXES)}
    return {
        "id": row[columns.TRIAL_ID],
        "configuration": row[columns.CONFIGURATION],
        "state": row[columns.STATE],
        "reason": row[columns.REASON],
        "epoch": row[columns.EPOCH],
        "epochs": row[columns.EPOCHS],
        "label": labels[architecture_label(row)],
        "settings": dict.fromkeys(record.varying) | dict(settings_of(record, row)),
        "shown": shown,
    } | numbers


def _rounded(value: Any) -> float | None:
    """Five significant digits, more than any screen shows; None for what JSON has no number for."""
    return float(f"{value:.5g}") if is_number(value) else None
