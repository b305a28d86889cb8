"""What the learning curves are drawn from: series by epoch, and the parameters that trials can be compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search import columns
from search.objectives import Row
from search.reporting.record import Record, is_number
from search.reporting.wording import heading, written

VALIDATION, TRAINING = "validation", "training"
LOSS = "loss"
SERIES: Mapping[str, Mapping[str, str]] = {
    columns.MIOU: {VALIDATION: columns.MIOU, TRAINING: columns.TRAIN_MIOU},
    columns.MIOU_FOREGROUND: {VALIDATION: columns.MIOU_FOREGROUND},
    columns.PIXEL_ACCURACY: {VALIDATION: columns.PIXEL_ACCURACY, TRAINING: columns.TRAIN_PIXEL_ACCURACY},
    columns.MEAN_CLASS_ACCURACY: {VALIDATION: columns.MEAN_CLASS_ACCURACY, TRAINING: columns.TRAIN_MEAN_CLASS_ACCURACY},
    LOSS: {VALIDATION: columns.VAL_LOSS, TRAINING: columns.TRAIN_LOSS},
    columns.LR: {"": columns.LR},
}
"""Metric to its columns of ``epochs``; the learning rate is neither of training nor of validation."""
_HEADINGS = {columns.LR: "learning rate"}
_DIGITS = 4
"""Significant digits of a point: a curve is read to a pixel, and the page holds hundreds of them."""


@dataclass(frozen=True)
class Factor:
    """A parameter that trials can be compared by."""

    path: str
    values: Mapping[str, Any]
    """Its distinct values in their order, under what tells them apart."""

    @classmethod
    def of(cls, path: str, rows: list[Row], listed: Sequence[Any] = ()) -> Factor:
        """The values that this parameter has in ``rows``: in the order ``listed`` by the space, else rising."""
        found = {repr(row[path]): row[path] for row in rows if row[path] is not None}
        rising = sorted(found, key=lambda identity: found[identity])
        first = [identity for value in listed if (identity := repr(columns.cell(value))) in found]
        return cls(path, {identity: found[identity] for identity in dict.fromkeys([*first, *rising])})

    def place(self, row: Row) -> int | None:
        """The position of a trial's value; None where the parameter does not hold."""
        return None if row[self.path] is None else list(self.values).index(repr(row[self.path]))

    def as_json(self) -> dict[str, Any]:
        """Path, short heading (``aspp`` for ``model.aspp``) and the values as a space file writes them."""
        *_, group, leaf = ["", *self.path.split(".")]
        values = [_text(self.path, value) for value in self.values.values()]
        return {"key": self.path, "heading": group if leaf == "name" else leaf, "values": values}


def curve_metrics() -> list[dict[str, Any]]:
    """What can be drawn against epoch."""
    return [
        {"key": key, "heading": _HEADINGS.get(key) or heading(key), "series": [list(pair) for pair in series.items()]}
        for key, series in SERIES.items()
    ]


def factors(record: Record) -> list[Factor]:
    """Every parameter on which trials with a curve may differ."""
    drawn = [row for row in record.trials if row[columns.TRIAL_ID] in record.curves]
    listed = {} if record.space is None else {item.path: item.values for item in record.space.parameters}
    return [Factor.of(path, drawn, listed.get(path, ())) for path in record.varying]


def compared(record: Record) -> list[str]:
    """The single parameters that the space itself wants compared, first things first."""
    return [] if record.space is None else [factor[0] for factor in record.space.compare if len(factor) == 1]


def curve(rows: list[Row]) -> dict[str, Any]:
    """The series of one trial, each as long as ``epoch``; a column without any number is null.

    ``epoch`` is the list of epochs, or only their number where they are 1, 2, ..., n.
    """
    epochs = [row[columns.EPOCH] for row in rows]
    complete = epochs == list(range(1, len(epochs) + 1))
    names = [column for series in SERIES.values() for column in series.values()]
    points = {name: [_rounded(row.get(name)) for row in rows] for name in names}
    known = {name: values if any(value is not None for value in values) else None for name, values in points.items()}
    return {columns.EPOCH: len(epochs) if complete else epochs} | known


def _text(path: str, value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else written(path, value)


def _rounded(value: Any) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if is_number(value) else None
