"""Successive halving for a Pareto front: a trial is judged among the trials whose latency is near its own.

ASHA on mIoU alone ends the small fast models that belong on the front, since larger ones lead at every rung. Ranking
by non-dominated sorting over all objectives (Schmucker et al. 2021, "Multi-objective Asynchronous Successive Halving",
arXiv 2106.12639) keeps them, but ends a family that is dominated early and would win late. Latency and size are known
before a trial starts, so it need not be compared with those that serve another purpose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import moocore
import numpy as np
from numpy.typing import NDArray

from search import columns
from search.objectives import DIRECTIONS
from search.stopping import Objectives, SuccessiveHalving

NEIGHBOURS = 0.2
"""Share of a rung that a trial is compared with: those nearest in the logarithm of latency."""
_MAXIMISE = [direction == "max" for direction in DIRECTIONS]


class ParetoAsha(SuccessiveHalving):
    """Halving among neighbours: the fifth of the rung that is nearest in latency, but at least ``2 * eta`` trials.

    Neighbours are ranked by non-dominated sorting over mIoU, latency and size, equals by mIoU; a trial among the best
    1/eta goes on. The highest mIoU of the whole rung, and the highest among those of the least latency and of the least
    size, go on in any case: they are the ends of the front.
    """

    def judge(self, rung: Mapping[str, Objectives], trial_id: str, epoch: int) -> str | None:
        """See :class:`SuccessiveHalving`."""
        values = (objectives[name] for objectives in rung.values() for name in columns.OBJECTIVES)
        points = np.fromiter(values, np.float64).reshape(len(rung), -1)  # Lists of lists take ten times as long.
        own = list(rung).index(trial_id)
        if is_extreme(points, own):
            return None
        peers = points[self._neighbours(points, own)]  # itself first
        miou, latency_ms, _ = peers.T
        ranked = np.lexsort((-miou, _ranks(peers)))
        kept = max(1, len(peers) // self.eta)
        place = int(np.flatnonzero(ranked == 0)[0]) + 1
        if place <= kept:
            return None
        return (
            f"mIoU {miou[0]:.3f} at epoch {epoch} is number {place} of the {len(peers)} trials of "
            f"{latency_ms.min():.3g} to {latency_ms.max():.3g} ms; the best {kept} go on"
        )

    def _neighbours(self, points: NDArray[np.float64], own: int) -> NDArray[np.intp]:
        """Indices of the nearest in latency, the trial itself first, equals in the order of their reports."""
        number = max(2 * self.eta, math.ceil(NEIGHBOURS * len(points)))
        log_latency = np.log(points[:, 1])
        distance = np.abs(log_latency - log_latency[own])
        distance[own] = -1.0
        return np.argsort(distance, kind="stable")[:number]


def is_extreme(points: NDArray[np.float64], own: int) -> bool:
    """Whether a trial is an end of its rung's front: none has a higher mIoU, of all or of the cheapest.

    Args:
        points: ``(n, 3)``, the columns of ``OBJECTIVES`` in their order, for each trial of the rung.
        own: index of the trial.
    """
    miou, *costs = points.T
    groups = [np.ones(len(points), dtype=bool), *(cost == cost.min() for cost in costs)]
    return any(group[own] and miou[own] >= miou[group].max() for group in groups)


def _ranks(points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number of the front that each belongs to, from 0."""
    finite = np.where(np.isneginf(points), -1.0, points)  # No mIoU is below 0, and an infinity is no point.
    ranks: NDArray[np.intp] = moocore.pareto_rank(finite, maximise=_MAXIMISE)
    return ranks
