"""What is best when three things count: the Pareto front over mIoU, latency and size, its knee, its hypervolume.

Only trials at full budget count (:func:`completed`): a trial stopped at epoch 3 is no evidence about epoch 50.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import moocore
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from search.columns import COMPLETED, LATENCY_MS, MIOU, OBJECTIVES, SIZE_MB, STATE

Row = dict[str, Any]
"""One trial: column name to value."""

DIRECTIONS = tuple(OBJECTIVES.values())
_MAXIMISE = [direction == "max" for direction in DIRECTIONS]
NEAR_BEST = 0.01
"""One point of mIoU: what :func:`fastest_near_best` gives up for speed."""
_SMALLEST_FRONT_WITH_KNEE = 3
_REFERENCE_MARGIN = 1.1


def non_dominated(values: NDArray[np.float64], directions: Sequence[str] = DIRECTIONS) -> NDArray[np.bool_]:
    """Which points no other point beats: at least as good everywhere and better somewhere.

    Args:
        values: ``(n, objectives)``, by default the columns of ``OBJECTIVES`` in their order.
        directions: ``max`` or ``min`` for each objective.

    Returns:
        Mask of shape ``(n,)``. Of equal points all stay; a point with a value that is not finite never does.
    """
    finite = np.isfinite(values).all(axis=1)
    mask = np.zeros(len(values), dtype=bool)
    if finite.any():
        maximise = [direction == "max" for direction in directions]
        mask[finite] = moocore.is_nondominated(values[finite], maximise=maximise, keep_weakly=True)
    return mask


def completed(trials: pa.Table) -> pa.Table:
    """The trials at full budget."""
    if not trials.num_rows:
        return trials
    return trials.filter(_is_completed(trials))


def front(trials: pa.Table) -> pa.Table:
    """The completed trials that no completed trial beats, the fastest first.

    A trial with a missing or not finite objective is left out.
    """
    if not trials.num_rows:
        return trials
    is_member = np.zeros(trials.num_rows, dtype=bool)
    is_member[_is_completed(trials).to_numpy()] = non_dominated(_completed_values(trials))
    members = trials.filter(pa.array(is_member))
    return members.sort_by([(LATENCY_MS, "ascending"), (MIOU, "descending"), (SIZE_MB, "ascending")])


def best(members: pa.Table) -> Row | None:
    """The row of highest mIoU of a front, the fastest one of equals; None for an empty front."""
    rows = members.to_pylist()
    return max(rows, key=lambda row: (row[MIOU], -row[LATENCY_MS]), default=None)


def fastest_near_best(members: pa.Table, within: float = NEAR_BEST) -> Row | None:
    """The fastest row of a front whose mIoU is at most ``within`` below the highest; None for an empty front."""
    rows = members.to_pylist()
    enough = max((row[MIOU] for row in rows), default=0.0) - within
    return min((row for row in rows if row[MIOU] >= enough), key=lambda row: row[LATENCY_MS], default=None)


def knee(members: pa.Table) -> Row | None:
    """The compromise of a front: the row nearest to the point that has the best of every objective.

    Distance is Euclidean after scaling each objective over the front to [0, 1], latency and size by their logarithm
    since they span orders of magnitude (compromise programming: Zeleny, "Compromise programming", 1973). Two points
    are a choice and have no compromise: below three distinct points it is None.
    """
    if members.num_rows < _SMALLEST_FRONT_WITH_KNEE:
        return None
    losses = _values(members)
    losses[:, 0] *= -1
    losses[:, 1:] = np.log(losses[:, 1:])
    if len(np.unique(losses, axis=0)) < _SMALLEST_FRONT_WITH_KNEE:
        return None
    span = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(span > 0, span, 1)
    row: Row = members.slice(int(np.linalg.norm(scaled, axis=1).argmin()), 1).to_pylist()[0]
    return row


def reference_point(trials: pa.Table) -> dict[str, float]:
    """The corner that :func:`hypervolume` measures from: mIoU 0, and 1.1 times the largest latency and size of the
    completed trials; empty when none has all three. To compare searches, give all of them the same one.
    """
    values = _completed_values(trials)
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return {}
    worst = values.max(axis=0) * _REFERENCE_MARGIN
    return {MIOU: 0.0, LATENCY_MS: float(worst[1]), SIZE_MB: float(worst[2])}


def hypervolume(trials: pa.Table, reference: Mapping[str, float] | None = None) -> float:
    """Share in [0, 1] of the box between the ideal (mIoU 1, 0 ms, 0 MB) and ``reference`` that the front dominates.

    Args:
        trials: the ``trials`` table; only completed rows count.
        reference: worst acceptable value of each objective, by default :func:`reference_point` of ``trials``.
            Points beyond it add nothing.

    Source: Zitzler and Thiele, "Multiobjective evolutionary algorithms", 1999.
    """
    corner = reference_point(trials) if reference is None else reference
    members = front(trials)
    if not corner or not members.num_rows:
        return 0.0
    point = [corner[name] for name in OBJECTIVES]
    box = (1 - corner[MIOU]) * corner[LATENCY_MS] * corner[SIZE_MB]
    return float(moocore.hypervolume(_values(members), ref=point, maximise=_MAXIMISE)) / box


def _is_completed(trials: pa.Table) -> pa.ChunkedArray:
    return pc.equal(trials.column(STATE), COMPLETED)


def _completed_values(trials: pa.Table) -> NDArray[np.float64]:
    """The objectives of the trials at full budget; the other columns, of which some are long texts, are not touched."""
    return _values(completed(trials.select([STATE, *OBJECTIVES]) if trials.num_rows else trials))


def _values(rows: pa.Table) -> NDArray[np.float64]:
    """The objectives as ``(n, 3)``; null becomes NaN."""
    if not rows.num_rows:
        return np.empty((0, len(OBJECTIVES)))
    return np.stack([rows.column(name).to_numpy().astype(np.float64) for name in OBJECTIVES], axis=1)
