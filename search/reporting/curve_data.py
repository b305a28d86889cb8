"""What the learning curves are drawn from: series by epoch, and the parameters that trials can be compared by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import columns
from search.objectives import Row
from search.reporting.packing import packed_numbers
from search.reporting.record import Record, is_number, numbers
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
MOST_POINTS = 50_000
"""Epochs whose curves the page holds, about 2 MB: all of 1,000 trials of 50 epochs (see :func:`drawn_trials`)."""


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

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {identity: place for place, identity in enumerate(self.values)}

    def place(self, row: Row) -> int | None:
        """The position of a trial's value; None where the parameter does not hold."""
        return None if row[self.path] is None else self._places[repr(row[self.path])]

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


def factors(record: Record, drawn: Collection[str]) -> list[Factor]:
    """Every parameter on which the trials in ``drawn`` may differ."""
    rows = [row for row in record.trials if row[columns.TRIAL_ID] in drawn]
    listed = {} if record.space is None else {item.path: item.values for item in record.space.parameters}
    return [Factor.of(path, rows, listed.get(path, ())) for path in record.varying]


def compared(record: Record) -> list[str]:
    """The single parameters that the space itself wants compared, first things first."""
    return [] if record.space is None else [factor[0] for factor in record.space.compare if len(factor) == 1]


def drawn_trials(record: Record, most_points: int = MOST_POINTS) -> list[str]:
    """The trials whose curves the page holds, in the order drawn; all of them while they have few enough epochs.

    Else the runs of the front, whatever their number; then the completed configurations of highest mIoU, up to half
    of ``most_points``; then others spread evenly over the order drawn, up to ``most_points``. The runs of a
    configuration stay together: a mean over some of them would mislead.
    """
    groups: dict[str, list[str]] = {}
    for row in record.trials:
        if row[columns.TRIAL_ID] in record.spans:
            groups.setdefault(row[columns.CONFIGURATION], []).append(row[columns.TRIAL_ID])
    points = {name: sum(map(_length, map(record.spans.__getitem__, runs))) for name, runs in groups.items()}
    chosen = set(groups)
    if sum(points.values()) > most_points:
        chosen = {row[columns.TRIAL_ID] for row in record.front_rows} & set(groups)
        chosen |= _best(record, points, chosen, most_points // 2)
        room = max(0, most_points - sum(points[name] for name in chosen))
        chosen |= _spread({name: number for name, number in points.items() if name not in chosen}, room)
    return [trial for name, runs in groups.items() if name in chosen for trial in runs]


def curves(record: Record, drawn: Sequence[str]) -> dict[str, Any]:
    """The curves of the trials in ``drawn``, one behind the other.

    ``trials`` and ``lengths`` say whose they are and of how many epochs; ``series`` holds each column of
    :data:`SERIES` with a number in it, packed by :func:`packed_numbers`; ``epochs`` has those trials whose epochs are
    not 1, 2, ..., n; ``recorded`` is the number of trials with a curve, in the page or not.
    """
    spans = [record.spans[trial] for trial in drawn]
    rows = np.concatenate([np.arange(span.start, span.stop) for span in spans]) if spans else np.empty(0, np.int64)
    held = {name: numbers(record.epochs, name)[rows] for series in SERIES.values() for name in series.values()}
    epoch = numbers(record.epochs, columns.EPOCH)
    odd = {
        trial: epoch[span].astype(int).tolist()
        for trial, span in zip(drawn, spans, strict=True)
        if (epoch[span] != np.arange(1, _length(span) + 1)).any()
    }
    return {
        "trials": list(drawn),
        "lengths": list(map(_length, spans)),
        "series": {name: packed_numbers(values) for name, values in held.items() if not np.isnan(values).all()},
        "epochs": odd,
        "recorded": len(record.spans),
    }


def _length(span: slice) -> int:
    length: int = span.stop - span.start
    return length


def _best(record: Record, points: Mapping[str, int], chosen: Collection[str], most_points: int) -> set[str]:
    """Completed configurations by falling mIoU until they and those ``chosen`` have ``most_points`` epochs."""
    done = [row for row in record.configurations if row[columns.STATE] == columns.COMPLETED]
    ranked = sorted((row for row in done if is_number(row[columns.MIOU])), key=lambda row: -row[columns.MIOU])
    room, best = most_points - sum(points[name] for name in chosen), set()
    for name in (row[columns.TRIAL_ID] for row in ranked):
        if name in points and name not in chosen:
            room -= points[name]
            if room < 0:
                break
            best.add(name)
    return best


def _spread(points: Mapping[str, int], room: int) -> set[str]:
    """Configurations evenly over all in ``points``, long and short alike, with ``room`` epochs at most together."""
    names, lengths = list(points), np.array(list(points.values()), dtype=np.int64)

    def places(number: int) -> NDArray[np.int64]:
        return np.arange(number) * len(names) // max(1, number)

    number = len(names) * room // max(1, int(lengths.sum()))
    while lengths[places(number)].sum() > room:
        number -= 1
    return {names[place] for place in places(number)}


def _text(path: str, value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else written(path, value)
