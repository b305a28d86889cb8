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
        if is_extreme(rung, trial_id):
            return None
        peers = self._neighbours(rung, trial_id)
        ranked = sorted(zip(_ranks(peers), peers.items(), strict=True), key=_order)
        kept = max(1, len(peers) // self.eta)
        best = [name for _, (name, _) in ranked[:kept]]
        if trial_id in best:
            return None
        place = [name for _, (name, _) in ranked].index(trial_id) + 1
        latencies = [objectives[columns.LATENCY_MS] for objectives in peers.values()]
        return (
            f"mIoU {rung[trial_id][columns.MIOU]:.3f} at epoch {epoch} is number {place} of the {len(peers)} trials of "
            f"{min(latencies):.3g} to {max(latencies):.3g} ms; the best {kept} go on"
        )

    def _neighbours(self, rung: Mapping[str, Objectives], trial_id: str) -> dict[str, Objectives]:
        own = math.log(rung[trial_id][columns.LATENCY_MS])
        number = max(2 * self.eta, math.ceil(NEIGHBOURS * len(rung)))
        near = sorted(rung, key=lambda name: (abs(math.log(rung[name][columns.LATENCY_MS]) - own), name != trial_id))
        return {name: rung[name] for name in near[:number]}


def is_extreme(rung: Mapping[str, Objectives], trial_id: str) -> bool:
    """Whether the trial is an end of the rung's front: none has a higher mIoU, of all or of the cheapest."""
    own = rung[trial_id]
    groups = [list(rung.values())]
    for cost in (columns.LATENCY_MS, columns.SIZE_MB):
        least = min(objectives[cost] for objectives in rung.values())
        groups.append([objectives for objectives in rung.values() if objectives[cost] == least])
    return any(
        own in group and own[columns.MIOU] >= max(objectives[columns.MIOU] for objectives in group) for group in groups
    )


def _ranks(peers: Mapping[str, Objectives]) -> list[int]:
    """Number of the front that each belongs to, from 0."""
    points = np.array([[objectives[name] for name in columns.OBJECTIVES] for objectives in peers.values()])
    points[np.isneginf(points)] = -1.0  # No mIoU is below 0, and an infinity is no point.
    ranks: list[int] = moocore.pareto_rank(points, maximise=_MAXIMISE).tolist()
    return ranks


def _order(entry: tuple[int, tuple[str, Objectives]]) -> tuple[int, float]:
    rank, (_, objectives) = entry
    return rank, -objectives[columns.MIOU]
