"""How a search got on: hypervolume and best mIoU of what was completed, against the time that training had taken.

The time is that of all trials together, of the stopped and failed ones too: all training costs. It is summed over the
epochs reported, so pauses, resumptions and the number of trials at a time do not matter. Of an epoch that was trained
twice, since the search was killed before a checkpoint, the last row counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import moocore
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from search import columns
from search.contexts import configuration_of, is_finite
from search.objectives import DIRECTIONS
from search.repeats import Row

Floats = NDArray[np.float64]
_MAXIMISE = [direction == "max" for direction in DIRECTIONS]
_SIGNS = np.where(_MAXIMISE, 1.0, -1.0)


@dataclass(frozen=True)
class Step:
    """A moment at which something got better."""

    spent_s: float
    """Training time of all trials until then, in seconds."""
    value: float
    trial_id: str
    """The configuration that did it."""


@dataclass(frozen=True)
class Progress:
    """The two curves, and what they leave out."""

    hypervolume: tuple[Step, ...]
    """As :func:`search.objectives.hypervolume` has it; one step each time the front changed."""
    best: tuple[Step, ...]
    """Highest mIoU; one step each time it rose."""
    total_s: float
    """Training time of the whole search."""
    untimed_epochs: int
    """Epochs without a time: they are not counted."""
    unplaced: tuple[str, ...]
    """Configurations left out: no run of theirs has a time of its end."""

    def spent_until(self, share: float) -> float:
        """Time after which ``share`` of the final hypervolume was reached; there must be a step."""
        wanted = share * self.hypervolume[-1].value
        return next(step.spent_s for step in self.hypervolume if step.value >= wanted)

    def hypervolume_at(self, spent_s: float) -> float:
        """Hypervolume after that time, 0 before the first step."""
        return max((step.value for step in self.hypervolume if step.spent_s <= spent_s), default=0.0)


def progress(
    epochs: pa.Table, trials: Iterable[Row], configurations: Sequence[Row], reference: Mapping[str, float]
) -> Progress:
    """Follow the search from one completed configuration to the next.

    A configuration counts from the moment when the last of its completed runs reported its last epoch, with the mean
    of these runs: before, its place was not known. So the curves never fall, and end where the report does.

    Args:
        epochs: the ``epochs`` table, each (trial, epoch) once; without columns when nothing was reported.
        trials: rows of ``trials``.
        configurations: :func:`search.repeats.configurations` of them.
        reference: the corner that the hypervolume is measured from (:func:`search.objectives.reference_point`).
    """
    if not epochs.num_rows:
        epochs = columns.epochs_schema([]).empty_table()
    moments, spent = _spent(epochs)
    ends = _ends(epochs, trials)
    counted = [row for row in configurations if row[columns.STATE] == columns.COMPLETED and _has_objectives(row)]
    placed = [row for row in counted if row[columns.TRIAL_ID] in ends]
    placed.sort(key=lambda row: ends[row[columns.TRIAL_ID]])
    at = np.array([np.datetime64(ends[row[columns.TRIAL_ID]].replace(tzinfo=None), "us") for row in placed], "M8[us]")
    costs = spent[np.searchsorted(moments, at, side="right")] if placed else np.empty(0)
    values = np.array([[row[name] for name in columns.OBJECTIVES] for row in placed]).reshape(-1, len(_SIGNS))
    ids = [row[columns.TRIAL_ID] for row in placed]
    return Progress(
        hypervolume=tuple(hypervolume_steps(values, costs, ids, reference)),
        best=tuple(_best_steps(values[:, 0], costs, ids)),
        total_s=float(spent[-1]),
        untimed_epochs=epochs.num_rows - len(moments),
        unplaced=tuple(row[columns.TRIAL_ID] for row in counted if row[columns.TRIAL_ID] not in ends),
    )


def _has_objectives(row: Row) -> bool:
    return all(is_finite(row[name]) for name in columns.OBJECTIVES)


def _spent(epochs: pa.Table) -> tuple[NDArray[np.datetime64], Floats]:
    """When epochs were reported, rising ``(n,)``, and the time spent before each and after all ``(n + 1,)``."""
    known = pc.and_(pc.is_valid(epochs[columns.REPORTED_AT]), pc.is_finite(epochs[columns.EPOCH_TIME_S]))
    timed = epochs.select([columns.REPORTED_AT, columns.EPOCH_TIME_S]).filter(known).sort_by(columns.REPORTED_AT)
    moments = timed[columns.REPORTED_AT].cast(pa.timestamp("us")).to_numpy()
    return moments, np.concatenate([[0.0], np.cumsum(timed[columns.EPOCH_TIME_S].to_numpy())])


def _ends(epochs: pa.Table, trials: Iterable[Row]) -> dict[str, datetime]:
    """Configuration to when its last completed run reported its last epoch, or else was written down as ended."""
    last = epochs.group_by(columns.TRIAL_ID).aggregate([(columns.REPORTED_AT, "max")]).to_pydict()
    reported = dict(zip(last[columns.TRIAL_ID], last[f"{columns.REPORTED_AT}_max"], strict=True))
    ends: dict[str, datetime] = {}
    for row in trials:
        end = reported.get(row[columns.TRIAL_ID]) or row[columns.ENDED_AT]
        if row[columns.STATE] == columns.COMPLETED and end is not None:
            configuration = configuration_of(row)
            ends[configuration] = max(ends.get(configuration, end), end)
    return ends


def hypervolume_steps(
    values: Floats, costs: Floats, ids: Sequence[str], reference: Mapping[str, float]
) -> Iterable[Step]:
    """Keep the front as it grows; only a point that enters it can change the hypervolume.

    Args:
        values: ``(n, objectives)`` in the order in which they came, all finite.
        costs: what had been spent when each came, ``(n,)``.
        ids: of whose they are.
        reference: the corner that is measured from.
    """
    if not len(values):
        return
    corner = [reference[name] for name in columns.OBJECTIVES]
    measure = moocore.Hypervolume(ref=corner, maximise=_MAXIMISE)
    box = (1 - corner[0]) * corner[1] * corner[2]
    gains = values * _SIGNS
    front = np.empty(0, dtype=np.int64)
    for index, point in enumerate(gains):
        if (gains[front] >= point).all(axis=1).any():
            continue
        front = np.append(front[~(gains[front] <= point).all(axis=1)], index)
        yield Step(float(costs[index]), float(measure(values[front])) / box, ids[index])


def _best_steps(mious: Floats, costs: Floats, ids: Sequence[str]) -> Iterable[Step]:
    top = -np.inf
    for miou, cost, trial in zip(mious, costs, ids, strict=True):
        if miou > top:
            top = miou
            yield Step(float(cost), float(miou), trial)
