"""The data behind the page's charts, as plain JSON values with rounded numbers."""

from __future__ import annotations

from typing import Any

from search import columns
from search.objectives import Row
from search.reporting.curve_data import compared, curve, curve_metrics, factors
from search.reporting.palette import style
from search.reporting.record import Record, architecture_label, is_number
from search.reporting.summary import Summary, settings_of
from search.reporting.wording import heading, written

AXES = (columns.LATENCY_MS, columns.SIZE_MB, columns.PARAMS, columns.TRAIN_TIME_S)
"""What mIoU can be drawn against: costs, the smaller the better."""


def payload(record: Record, summary: Summary) -> dict[str, Any]:
    """Everything the charts need."""
    labels = record.labels
    varied = factors(record)
    front = {row[columns.TRIAL_ID] for row in record.front_rows}
    roles = summary.roles()
    return {
        "axes": [{"key": key, "heading": heading(key)} for key in AXES],
        "curve_metrics": curve_metrics(),
        "factors": [factor.as_json() for factor in varied],
        "compare": compared(record),
        "labels": [_label(index, label) for index, label in enumerate(labels)],
        "references": [
            {"label": entry["label"], "miou": _rounded(entry["miou"])}
            for entry in record.data["references"]
            if is_number(entry["miou"])
        ],
        "trials": [
            _trial(record, row, labels)
            | {"front": row[columns.TRIAL_ID] in front, "roles": roles.get(row[columns.TRIAL_ID], ())}
            | {"factors": [factor.place(row) if row[columns.TRIAL_ID] in record.curves else None for factor in varied]}
            for row in record.trials
        ],
        "configurations": [_configuration(row) for row in record.configurations] if record.repeated else None,
        "curves": {trial: curve(rows) for trial, rows in record.curves.items()},
    }


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


def _trial(record: Record, row: Row, labels: list[str]) -> dict[str, Any]:
    numbers = {name: _rounded(row[name]) for name in (columns.MIOU, *AXES)}
    shown = {name: written(name, row[name]) for name in (columns.MIOU, *AXES)}
    return {
        "id": row[columns.TRIAL_ID],
        "configuration": row[columns.CONFIGURATION],
        "state": row[columns.STATE],
        "reason": row[columns.REASON],
        "epoch": row[columns.EPOCH],
        "epochs": row[columns.EPOCHS],
        "label": labels.index(architecture_label(row)),
        "settings": settings_of(record, row),
        "shown": shown,
    } | numbers


def _rounded(value: Any) -> float | None:
    """Five significant digits, more than any screen shows; None for what JSON has no number for."""
    return float(f"{value:.5g}") if is_number(value) else None
